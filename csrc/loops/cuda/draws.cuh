// Random numbers, with the interface of loops/cpu/draws.h. Each thread generates the draws of one block of words;
// neighboring threads write neighboring elements.
#pragma once

#include <ATen/ceil_div.h>

#include <type_traits>

#include "formulas/philox.h"
#include "loops/cuda/launch.cuh"
#include "loops/noise.h"
#include "loops/row_shape.h"

namespace torchnotes {

constexpr int kDrawThreads = 256;

__device__ inline Bits<float> bits_of(const Block<uint64_t>& block, int i, float) { return {uint32_t(block.word[i])}; }
__device__ inline Bits<double> bits_of(const Block<uint64_t>& block, int i, double) {
  return {uint32_t(block.word[2 * i]), uint32_t(block.word[2 * i + 1])};
}

template <class Draw, class Element>
__global__ void __launch_bounds__(kDrawThreads) draws_kernel(Draw draw, Noise noise, int64_t blocks) {
  using T = std::conditional_t<sizeof(Element) == sizeof(double), double, float>;
  constexpr int kEach = 4 * sizeof(uint32_t) / sizeof(T);  // elements per block
  constexpr int kElements = kEach * kPairDistance;         // elements per group
  auto* const out = static_cast<Element*>(noise.out);
  const auto* const in = static_cast<const Element*>(noise.in);
  const int64_t threads = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < noise.rows * blocks; i += threads) {
    const int64_t row = i / blocks, start = noise.numbering.start(row);
    const int64_t number = start / kElements * kPairDistance + i % blocks;
    const int64_t first =
        number / kPairDistance * kElements + number % kPairDistance - start;  // its first element in the row
    const int64_t* const pair = noise.keys[noise.numbering.part(row)];
    const Key key{uint64_t(pair[0]), uint64_t(pair[1])};
    const auto block = philox(key, uint64_t(number), uint64_t(number) >> 32);
    const auto put = [&](int64_t element, T value) {
      if (element >= 0 && element < noise.size) {
        const int64_t j = row * noise.size + element;
        out[j] = static_cast<Element>(in == nullptr ? value : static_cast<T>(in[j]) * value);
      }
    };
#pragma unroll
    for (int k = 0; k < kEach; k += 2) {
      const Pair<T> two = draw(bits_of(block, k, T()), bits_of(block, k + 1, T()));
      put(first + k * kPairDistance, two.first);
      put(first + (k + 1) * kPairDistance, two.second);
    }
  }
}

template <class Draw>
void for_each_draw(c10::Device device, const Draw& draw, const Noise& noise) {
  with_element_type(noise.type, [&](auto element) {
    using Element = decltype(element);
    constexpr int64_t kWordsEach = sizeof(Element) == sizeof(double) ? 2 : 1;
    constexpr int64_t kElements = 4 * kPairDistance / kWordsEach;  // per group
    const int64_t before = noise.numbering.max_skipped(kElements);
    const int64_t blocks = at::ceil_div(before + noise.size, kElements) * kPairDistance;  // per row
    const int64_t grid = at::ceil_div<int64_t>(noise.rows * blocks, kDrawThreads);
    launch(device, grid, kDrawThreads, draws_kernel<Draw, Element>, draw, noise, blocks);
  });
}

}  // namespace torchnotes
