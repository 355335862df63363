// The elementwise driver: map(F, a, b, ...) computes F(a_i, b_i, ...) for every element, map_(F, a) works in place.
//
// F is a formula: a callable on SIMD vectors. Tails and strided elements go through the same vector code, so that the
// value of an element depends neither on its position nor on the number of threads. bfloat16 and half are computed in
// float.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <array>
#include <utility>

#include "../operands.h"
#include "allocate.h"

#define TORCHNOTES_DEVICE CPU

namespace torchnotes {
namespace {

using at::vec::Vectorized;

template <class scalar_t>
inline constexpr bool is_half = at::vec::is_reduced_floating_point_v<scalar_t>;

template <class F, class scalar_t, class... V>
inline Vectorized<scalar_t> apply(const F& f, const Vectorized<scalar_t>& a, const V&... rest) {
  if constexpr (is_half<scalar_t>) {
    const auto in_float = [&f](const auto&... x) {
      return at::vec::convert_from_float<scalar_t>(f(std::get<0>(x)...), f(std::get<1>(x)...));
    };
    return in_float(at::vec::convert_to_float<scalar_t>(a), at::vec::convert_to_float<scalar_t>(rest)...);
  } else {
    return f(a, rest...);
  }
}

// data[0] is the output, data[1..N] are the inputs.
template <size_t N, class scalar_t, class F, size_t... I>
inline void map_contiguous(const F& f, std::array<scalar_t*, N + 1> data, int64_t n, std::index_sequence<I...>) {
  using V = Vectorized<scalar_t>;
  int64_t i = 0;
  for (; i + V::size() <= n; i += V::size()) {
    apply(f, V::loadu(data[I + 1] + i)...).store(data[0] + i);
  }
  if (i < n) {
    apply(f, V::loadu(data[I + 1] + i, n - i)...).store(data[0] + i, n - i);
  }
}

template <size_t N, class scalar_t, class F>
inline void map_strided(const F& f, std::array<char*, N + 1> data, const int64_t* strides, int64_t n) {
  constexpr int64_t kBlock = Vectorized<scalar_t>::size();
  std::array<std::array<scalar_t, kBlock>, N + 1> block{};
  std::array<scalar_t*, N + 1> blocks;
  for (size_t k = 0; k <= N; ++k) {
    blocks[k] = block[k].data();
  }
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t m = std::min(kBlock, n - i);
    for (size_t k = 1; k <= N; ++k) {
      for (int64_t j = 0; j < m; ++j) {
        block[k][j] = *reinterpret_cast<const scalar_t*>(data[k] + (i + j) * strides[k]);
      }
    }
    map_contiguous<N>(f, blocks, m, std::make_index_sequence<N>{});
    for (int64_t j = 0; j < m; ++j) {
      *reinterpret_cast<scalar_t*>(data[0] + (i + j) * strides[0]) = block[0][j];
    }
  }
}

template <size_t N, class scalar_t, class F>
void map_iterator(const F& f, at::TensorIteratorBase& iterator) {
  iterator.for_each([&f](char** base, const int64_t* strides, int64_t inner, int64_t outer) {
    std::array<char*, N + 1> data;
    std::copy_n(base, N + 1, data.begin());
    const bool contiguous =
        std::all_of(strides, strides + N + 1, [](int64_t stride) { return stride == int64_t(sizeof(scalar_t)); });
    for (int64_t row = 0; row < outer; ++row) {
      if (contiguous) {
        std::array<scalar_t*, N + 1> typed;
        std::transform(data.begin(), data.end(), typed.begin(), [](char* p) { return reinterpret_cast<scalar_t*>(p); });
        map_contiguous<N>(f, typed, inner, std::make_index_sequence<N>{});
      } else {
        map_strided<N, scalar_t>(f, data, strides, inner);
      }
      for (size_t k = 0; k <= N; ++k) {
        data[k] += strides[N + 1 + k];
      }
    }
  });
}

template <class scalar_t, class F, class... Tensors>
void map_dense(const F& f, const at::Tensor& out, const Tensors&... inputs) {
  constexpr size_t N = sizeof...(Tensors);
  // The inputs are only read; a single array type for all pointers keeps casts out of the loop.
  const std::array<scalar_t*, N + 1> data = {
      out.template mutable_data_ptr<scalar_t>(), const_cast<scalar_t*>(inputs.template const_data_ptr<scalar_t>())...
  };
  at::parallel_for(0, out.numel(), at::internal::GRAIN_SIZE, [&](int64_t begin, int64_t end) {
    std::array<scalar_t*, N + 1> part;
    std::transform(data.begin(), data.end(), part.begin(), [begin](scalar_t* p) { return p + begin; });
    map_contiguous<N>(f, part, end - begin, std::make_index_sequence<N>{});
  });
}

template <class F, class... Rest>
at::Tensor map(const F& f, const at::Tensor& first, const Rest&... rest) {
  constexpr size_t N = 1 + sizeof...(Rest);
  (check_same(first, rest), ...);
  at::Tensor out;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, first.scalar_type(), "torchnotes::map", [&] {
    if (same_dense_layout(first, rest...)) {
      out = empty_like_dense(first);
      map_dense<scalar_t>(f, out, first, rest...);
    } else {
      auto iterator = result_iterator(first, rest...);
      out = iterator.output();
      advise_huge_pages(out);
      map_iterator<N, scalar_t>(f, iterator);
    }
  });
  return out;
}

template <class F>
void map_(const F& f, at::Tensor& self) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, self.scalar_type(), "torchnotes::map_", [&] {
    if (same_dense_layout(self)) {
      map_dense<scalar_t>(f, self, self);
    } else {
      auto iterator = at::TensorIterator::unary_op(self, self);  // raises if the tensor overlaps itself
      map_iterator<1, scalar_t>(f, iterator);
    }
  });
}

}  // namespace
}  // namespace torchnotes
