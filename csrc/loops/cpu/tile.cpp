#include "loops/cpu/tile.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>

#include "loops/cpu/vectors.h"

namespace torchnotes {
namespace {

constexpr int64_t kFetched = 2048;  // elements ahead of those that are widened

template <class scalar_t>
void widen_all(const scalar_t* from, int64_t n, float* to) {
  using V = Vectorized<float>;
  int64_t i = 0;
  for (; i + V::size() <= n; i += V::size()) {
    V x;
    at::vec::load_to_float<scalar_t>(from + i, x);
    __builtin_prefetch(from + i + kFetched);
    x.store(to + i);
  }
  if (i < n) {
    scalar_t rest[V::size()] = {};
    std::copy_n(from + i, n - i, rest);
    V x;
    at::vec::load_to_float<scalar_t>(rest, x);
    x.store(to + i);
  }
}

template <class scalar_t>
void narrow_all(const float* from, int64_t n, scalar_t* to) {
  using V = Vectorized<float>;
  constexpr int64_t kSize = V::size();
  for (int64_t i = 0; i < n; i += 2 * kSize) {
    at::vec::convert_from_float<scalar_t>(V::loadu(from + i), V::loadu(from + i + kSize))
        .store(to + i, static_cast<int>(std::min(2 * kSize, n - i)));
  }
}

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

}  // namespace

void widen(c10::ScalarType type, const void* from, int64_t n, float* to) {
  if (type == c10::ScalarType::Half) {
    widen_all(static_cast<const c10::Half*>(from), n, to);
  } else {
    widen_all(static_cast<const c10::BFloat16*>(from), n, to);
  }
}

void narrow(c10::ScalarType type, const float* from, int64_t n, void* to) {
  if (type == c10::ScalarType::Half) {
    narrow_all(from, n, static_cast<c10::Half*>(to));
  } else {
    narrow_all(from, n, static_cast<c10::BFloat16*>(to));
  }
}

void transpose(const float* from, int64_t stride, int64_t m, int64_t n, float* to, int64_t to_stride) {
#if defined(CPU_CAPABILITY_AVX512)
  if (m < 16 || n < 16) {
    transpose_one_by_one(from, stride, m, n, to, to_stride);
    return;
  }
  for (int64_t i = 0; i < m; i += 16) {
    const int64_t row = std::min(i, m - 16);  // the last block may overlap with the one before
    for (int64_t j = 0; j < n; j += 16) {
      const int64_t column = std::min(j, n - 16);
      at::vec::transpose_mxn<float>(
          from + row * stride + column, stride, to + column * to_stride + row, to_stride, 16, 16
      );
    }
  }
#elif defined(CPU_CAPABILITY_AVX2)
  if (m < 8 || n < 8) {
    transpose_one_by_one(from, stride, m, n, to, to_stride);
    return;
  }
  for (int64_t i = 0; i < m; i += 8) {
    const int64_t row = std::min(i, m - 8);  // the last block may overlap with the one before
    for (int64_t j = 0; j < n; j += 8) {
      const int64_t column = std::min(j, n - 8);
      at::vec::transpose_mxn<float, 8, 8>(
          from + row * stride + column, stride, to + column * to_stride + row, to_stride
      );
    }
  }
#else
  transpose_one_by_one(from, stride, m, n, to, to_stride);
#endif
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
