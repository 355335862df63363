// Divides up to kTensors tensors into chunks and distributes them over the blocks of one launch. What a kernel needs to
// know of each tensor is passed by value.
#pragma once

#include <ATen/ceil_div.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace torchnotes {

constexpr int kTensors = 32;            // per launch; kernel arguments are limited to 4096 bytes
constexpr int64_t kTensorChunk = 4096;  // elements

template <class Item>
struct Batch {
  int count = 0;
  int64_t first[kTensors + 1] = {0};  // first chunk of each tensor
  int64_t size[kTensors];
  Item item[kTensors];

  bool full() const { return count == kTensors; }
  int64_t chunks() const { return first[count]; }

  void add(const Item& of_tensor, int64_t elements) {
    item[count] = of_tensor;
    size[count] = elements;
    first[count + 1] = first[count] + at::ceil_div(elements, kTensorChunk);
    ++count;
  }
};

// Calls f(i, begin, end, chunk) with all threads of a block, for the elements [begin, end) of tensor i.
template <class Item, class F>
__device__ inline void for_each_chunk(const Batch<Item>& batch, const F& f) {
  int i = 0;
  for (int64_t chunk = blockIdx.x; chunk < batch.first[batch.count]; chunk += gridDim.x) {
    while (chunk >= batch.first[i + 1]) {
      ++i;
    }
    const int64_t begin = (chunk - batch.first[i]) * kTensorChunk, end = begin + kTensorChunk;
    f(i, begin, end < batch.size[i] ? end : batch.size[i], chunk);
  }
}

}  // namespace torchnotes
