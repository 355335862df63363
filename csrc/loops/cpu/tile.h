// Tiles: runs of elements that fit into L1. The arithmetic knows float and double only: loading a tile widens 16-bit
// numbers, storing it rounds them.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>

#include "loops/cpu/load.h"
#include "loops/row_shape.h"

namespace torchnotes {

constexpr int64_t kTile = 1024;       // elements
constexpr int64_t kTilePadding = 32;  // elements past the end of a buffer that widening may write

template <class T>
struct alignas(64) TileBuffer {
  T data[kTile + kTilePadding];
};

// Widens n contiguous elements of 16 bits, prefetching those that follow. May write kTilePadding elements more.
void widen(c10::ScalarType type, const void* from, int64_t n, float* to);

// Rounds n numbers to elements of 16 bits. Reads up to kTilePadding elements more.
void narrow(c10::ScalarType type, const float* from, int64_t n, void* to);

// to[j][i] = from[i][j] for m rows of n numbers, which are `stride` and `to_stride` apart.
void transpose(const float* from, int64_t stride, int64_t m, int64_t n, float* to, int64_t to_stride);
void transpose(const double* from, int64_t stride, int64_t m, int64_t n, double* to, int64_t to_stride);

// to[i * to_stride] = from[i * stride] for n elements of `bytes` bytes.
void copy_strided(int64_t bytes, const void* from, int64_t stride, void* to, int64_t to_stride, int64_t n);

// The element at an offset.
inline const void* element_at(const void* data, c10::ScalarType type, int64_t offset) {
  return static_cast<const char*>(data) + offset * element_bytes(type);
}
inline void* element_at(void* data, c10::ScalarType type, int64_t offset) {
  return const_cast<void*>(element_at(static_cast<const void*>(data), type, offset));
}

// n contiguous elements, from an offset on, as Ts: themselves, or a widened copy in `buffer`, in which case n must not
// exceed kTile.
template <class T>
inline const T* load_tile(const void* data, c10::ScalarType type, int64_t offset, int64_t n, T* buffer) {
  const void* const from = element_at(data, type, offset);
  if (type == kTypeOf<T>) {
    return static_cast<const T*>(from);
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    widen(type, from, n, buffer);
  }
  return buffer;
}

// Stores a tile.
void store_tile(const float* from, int64_t n, c10::ScalarType type, void* to);
void store_tile(const double* from, int64_t n, c10::ScalarType type, void* to);

}  // namespace torchnotes
