#include "loops/cpu/tile.h"

#include <algorithm>

#include "loops/cpu/load.h"

namespace torchnotes {
namespace {

constexpr int64_t kFetched = 2048;  // elements ahead of those that are widened

template <class T>
void transpose_one_by_one(const T* from, int64_t stride, int64_t m, int64_t n, T* to, int64_t to_stride) {
  constexpr int64_t kSize = Vectorized<T>::size();
  if (m == kSize) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < kSize; ++i) {
        to[j * to_stride + i] = from[i * stride + j];
      }
    }
    return;
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      to[j * to_stride + i] = from[i * stride + j];
    }
  }
}

template <class bits_t>
void copy_strided(const bits_t* from, int64_t stride, bits_t* to, int64_t to_stride, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    to[i * to_stride] = from[i * stride];
  }
}

}  // namespace

void copy_strided(int64_t bytes, const void* from, int64_t stride, void* to, int64_t to_stride, int64_t n) {
  const auto copy = [&](auto zero) {
    using bits_t = decltype(zero);
    copy_strided(static_cast<const bits_t*>(from), stride, static_cast<bits_t*>(to), to_stride, n);
  };
  bytes == 8 ? copy(uint64_t()) : bytes == 4 ? copy(uint32_t()) : copy(uint16_t());
}

void widen(c10::ScalarType type, const void* from_, int64_t n, float* to) {
  constexpr int64_t kSize = Vectorized<float>::size();
  const auto* const from = static_cast<const uint16_t*>(from_);
  with_narrow_type(LoadNarrow{type == c10::ScalarType::Half}, [&](const auto load) {
    int64_t i = 0;
    for (; i + kSize <= n; i += kSize) {
      __builtin_prefetch(from + i + kFetched);
      load(from + i).store(to + i);
    }
    if (i < n) {
      load(from + i, n - i).store(to + i);
    }
  });
}

void narrow(c10::ScalarType type, const float* from, int64_t n, void* to_) {
  using V = Vectorized<float>;
  constexpr int64_t kSize = V::size();
  auto* const to = static_cast<uint16_t*>(to_);
  with_narrow_type(LoadNarrow{type == c10::ScalarType::Half}, [&](const auto load) {
    int64_t i = 0;
    for (; i + 2 * kSize <= n; i += 2 * kSize) {
      load.store_pair(to + i, V::loadu(from + i), V::loadu(from + i + kSize), /*streamed=*/false);
    }
    for (; i < n; i += kSize) {
      load.store_some(to + i, V::loadu(from + i), std::min(kSize, n - i));
    }
  });
}

void transpose(const float* from, int64_t stride, int64_t m, int64_t n, float* to, int64_t to_stride) {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  constexpr int kBlock = Vectorized<float>::size();
  if (m >= kBlock && n >= kBlock) {
    for (int64_t i = 0; i < m; i += kBlock) {
      const int64_t row = std::min(i, m - kBlock);  // the last block may overlap with the one before
      for (int64_t j = 0; j < n; j += kBlock) {
        const int64_t column = std::min(j, n - kBlock);
        const float* const block = from + row * stride + column;
        at::vec::transpose_mxn<float, kBlock, kBlock>(block, stride, to + column * to_stride + row, to_stride);
      }
    }
    return;
  }
#endif
  transpose_one_by_one(from, stride, m, n, to, to_stride);
}

void transpose(const double* from, int64_t stride, int64_t m, int64_t n, double* to, int64_t to_stride) {
  transpose_one_by_one(from, stride, m, n, to, to_stride);
}

void store_tile(const float* from, int64_t n, c10::ScalarType type, void* to) {
  if (type == c10::ScalarType::Float) {
    std::copy_n(from, n, static_cast<float*>(to));
  } else {
    narrow(type, from, n, to);
  }
}

void store_tile(const double* from, int64_t n, c10::ScalarType, void* to) {
  std::copy_n(from, n, static_cast<double*>(to));
}

}  // namespace torchnotes
