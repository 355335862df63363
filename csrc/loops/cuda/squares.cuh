// norm_of_arrays, with the interface of loops/cpu/squares.h: a block sums a chunk, and one block adds up the sums.
#pragma once

#include <algorithm>

#include "formulas/gradient_norm.h"
#include "loops/array.h"
#include "loops/cuda/chunks.cuh"
#include "loops/cuda/launch.cuh"
#include "loops/cuda/rows.cuh"
#include "loops/precision.h"

namespace torchnotes {

struct Sum {
  double value;
  __device__ void merge(const Sum& other) { value += other.value; }
};

template <class Element>
__global__ void __launch_bounds__(kRowThreads) squares_kernel(Batch<const Element*> batch, double* sums) {
  for_each_chunk(batch, [&](int i, int64_t begin, int64_t end, int64_t chunk) {
    using T = std::conditional_t<sizeof(Element) == sizeof(double), double, float>;
    const SumOfSquares add;
    Sum sum{0};
    for (int64_t j = begin + threadIdx.x; j < end; j += blockDim.x) {
      sum.value = add(sum.value, static_cast<T>(batch.item[i][j]));
    }
    sum = merge_block<double>(sum, Sum{0});
    if (threadIdx.x == 0) {
      sums[chunk] = sum.value;
    }
  });
}

template <class T>
__global__ void __launch_bounds__(kRowThreads) root_kernel(const double* sums, int64_t count, T* root) {
  Sum sum{0};
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    sum.value += sums[i];
  }
  sum = merge_block<double>(sum, Sum{0});
  if (threadIdx.x == 0) {
    *root = static_cast<T>(::sqrt(sum.value));
  }
}

inline void norm_of_arrays(c10::Device device, const Array* arrays, int64_t count, c10::ScalarType type, void* norm) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; ++i) {
    chunks += at::ceil_div(arrays[i].size, kTensorChunk);
  }
  const Scratch<double> scratch(device, chunks);
  double* const sums = scratch.data();
  with_element_type(type, [&](auto element) {
    using Element = decltype(element);
    int64_t done = 0;
    for (int64_t i = 0; i < count;) {
      Batch<const Element*> batch;
      for (; i < count && !batch.full(); ++i) {
        batch.add(static_cast<const Element*>(arrays[i].data), arrays[i].size);
      }
      launch(device, batch.chunks(), kRowThreads, squares_kernel<Element>, batch, sums + done);
      done += batch.chunks();
    }
  });
  with_precision(type, [&](auto zero) {
    using T = decltype(zero);
    launch(device, 1, kRowThreads, root_kernel<T>, sums, chunks, static_cast<T*>(norm));
  });
}

}  // namespace torchnotes
