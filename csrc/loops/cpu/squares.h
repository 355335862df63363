// norm_of_arrays sums the squares of chunks of a fixed size and adds up the sums in order.
#pragma once

#include <c10/core/Device.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "formulas/gradient_norm.h"
#include "loops/array.h"
#include "loops/cpu/chunks.h"
#include "loops/cpu/load.h"
#include "loops/precision.h"

namespace torchnotes {

template <class Load>
double sum_of_squares(const Load load, const void* data, int64_t begin, int64_t end) {
  using V = typename Load::V;
  constexpr int64_t kSize = V::size();
  const auto* const x = static_cast<const typename Load::Element*>(data);
  const SumOfSquares add;
  Wide<V> a(0.0), b(0.0);  // alternately, so that an addition need not wait for the one before
  int64_t i = begin;
  for (; i + 2 * kSize <= end; i += 2 * kSize) {
    a = add(a, load(x + i));
    b = add(b, load(x + i + kSize));
  }
  for (; i < end; i += kSize) {
    a = add(a, load(x + i, std::min(kSize, end - i)));
  }
  return sum_of_lanes(a) + sum_of_lanes(b);
}

inline void norm_of_arrays(c10::Device, const Array* arrays, int64_t count, c10::ScalarType type, void* norm) {
  std::vector<int64_t> sizes(count);
  std::transform(arrays, arrays + count, sizes.begin(), [](const Array& array) { return array.size; });
  std::vector<double> sums(chunks_of(sizes));
  with_precision(type, [&](auto zero) {
    using T = decltype(zero);
    with_load<T>(type, [&](const auto load) {
      for_each_chunk(sizes, [&](size_t i, int64_t begin, int64_t end, int64_t chunk) {
        sums[chunk] = sum_of_squares(load, arrays[i].data, begin, end);
      });
    });
    double sum = 0;
    for (const double of_chunk : sums) {
      sum += of_chunk;
    }
    *static_cast<T*>(norm) = static_cast<T>(std::sqrt(sum));
  });
}

}  // namespace torchnotes
