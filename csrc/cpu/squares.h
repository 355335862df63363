// The driver of gradient_norm: sums chunks of a fixed size and adds up the sums in order.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

#include "../formulas/gradient_norm.h"
#include "chunks.h"
#include "map.h"

namespace torchnotes {
namespace {

template <class scalar_t>
double sum_of_squares(const scalar_t* x, int64_t n) {
  using V = Vectorized<at::opmath_type<scalar_t>>;
  constexpr int64_t kSize = Vectorized<scalar_t>::size();
  const SumOfSquares add;
  Wide<V> a(0.0), b(0.0);  // alternately, so that an addition need not wait for the one before
  const auto add_at = [&](int64_t i, Wide<V>& sum, auto... m) {
    const auto v = Vectorized<scalar_t>::loadu(x + i, m...);
    if constexpr (is_half<scalar_t>) {
      const auto [low, high] = at::vec::convert_to_float<scalar_t>(v);
      sum = add(add(sum, low), high);
    } else {
      sum = add(sum, v);
    }
  };
  int64_t i = 0;
  for (; i + 2 * kSize <= n; i += 2 * kSize) {
    add_at(i, a);
    add_at(i + kSize, b);
  }
  for (; i < n; i += kSize) {
    add_at(i, a, std::min(kSize, n - i));
  }
  return sum_of_lanes(a) + sum_of_lanes(b);
}

// For dense tensors of one dtype.
inline at::Tensor norm_of_all(const std::vector<at::Tensor>& tensors) {
  std::vector<int64_t> sizes;
  for (const at::Tensor& x : tensors) {
    sizes.push_back(x.numel());
  }
  std::vector<double> sums(chunks_of(sizes));
  const auto dtype = tensors[0].scalar_type();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "torchnotes::gradient_norm", [&] {
    for_each_chunk(sizes, [&](size_t i, int64_t begin, int64_t end, int64_t chunk) {
      sums[chunk] = sum_of_squares(tensors[i].const_data_ptr<scalar_t>() + begin, end - begin);
    });
  });
  double sum = 0;
  for (const double of_chunk : sums) {
    sum += of_chunk;
  }
  return at::empty({}, tensors[0].options().dtype(at::toOpMathType(dtype))).fill_(std::sqrt(sum));
}

}  // namespace
}  // namespace torchnotes
