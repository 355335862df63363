// Blocks of elements go through vector code, in float for 16-bit types. An operand that is not contiguous there is
// copied into a buffer that stays in cache; the next block reuses the copy if it has the same values. The order of
// additions is fixed by the shape: pieces of a fixed size are added up in vectors, lane by lane, and the sums of the
// pieces in double.
#pragma once

#include <c10/core/Device.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "formulas/weighted.h"
#include "loops/broadcast.h"
#include "loops/cpu/vectors.h"

namespace torchnotes {

constexpr int kSums = 4;  // sums that take turns, so that an addition need not wait for the one before

// The elements of a block, contiguous for each input.
template <class T>
using BlockInputs = std::array<const T*, kMaxOperands>;

// What is compiled for each formula: loops over n elements.
template <class T>
using MapBlock = void (*)(const void* formula, const BlockInputs<T>& in, int64_t n, T* out);
template <class T>
using SumBlock = Weighted<Vectorized<T>> (*)(const void* formula, const BlockInputs<T>& in, int64_t n);

void map_elements(MapBlock<float>, const void* formula, const ElementwiseInputs&, c10::ScalarType type, void* out);
void map_elements(MapBlock<double>, const void* formula, const ElementwiseInputs&, c10::ScalarType type, void* out);
Weighted<double> sum_elements(SumBlock<float>, const void* formula, const ElementwiseInputs&);
Weighted<double> sum_elements(SumBlock<double>, const void* formula, const ElementwiseInputs&);

namespace detail {

template <class T, class F, size_t... I>
void map_block(const void* formula, const BlockInputs<T>& in_, int64_t n, T* out) {
  using V = Vectorized<T>;
  const F f = *static_cast<const F*>(formula);
  const BlockInputs<T> in = in_;  // in registers: a store may alias it
  int64_t i = 0;
  for (; i + V::size() <= n; i += V::size()) {
    f(V::loadu(in[I] + i)...).store(out + i);
  }
  if (i < n) {
    f(V::loadu(in[I] + i, n - i)...).store(out + i, n - i);
  }
}

template <class T, class F, size_t... I>
Weighted<Vectorized<T>> sum_block(const void* formula, const BlockInputs<T>& in_, int64_t n) {
  using V = Vectorized<T>;
  const F f = *static_cast<const F*>(formula);
  const BlockInputs<T> in = in_;
  std::array<Weighted<V>, kSums> sums;
  sums.fill({V(0), V(0)});
  int64_t i = 0;
  for (; i + kSums * V::size() <= n; i += kSums * V::size()) {
    unrolled<kSums>([&](auto k) { sums[k].merge(f(V::loadu(in[I] + i + k * V::size())...)); });
  }
  for (; i < n; i += V::size()) {
    const int64_t lanes = std::min<int64_t>(V::size(), n - i);
    Weighted<V> with = sums[0];
    with.merge(f(V::loadu(in[I] + i, lanes)...));
    sums[0] = blend_lanes<V>(sums[0], with, lanes);
  }
  merge_all(sums);
  return sums[0];
}

}  // namespace detail

// Writes F(x...) for every element, with one x of each input; make() returns F.
template <class T, int inputs, class Make>
void map_elements(c10::Device, const Make& make, const ElementwiseInputs& in, c10::ScalarType type, void* out) {
  const auto f = make();
  [&]<size_t... i>(std::index_sequence<i...>) {
    map_elements(detail::map_block<T, std::remove_const_t<decltype(f)>, i...>, &f, in, type, out);
  }(std::make_index_sequence<inputs>());
}

// Calls finish(sum) with the sum of the Weighted values F(x...).
template <class T, int inputs, class F, class Finish>
void sum_elements(c10::Device, const F& f, const Finish& finish, const ElementwiseInputs& in) {
  [&]<size_t... i>(std::index_sequence<i...>) {
    finish(sum_elements(detail::sum_block<T, F, i...>, &f, in));
  }(std::make_index_sequence<inputs>());
}

}  // namespace torchnotes
