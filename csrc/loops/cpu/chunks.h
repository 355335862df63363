// Divides several tensors into chunks and distributes the chunks of all of them over the threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "loops/cpu/parallel.h"

namespace torchnotes {

constexpr int64_t kChunk = 8192;  // elements

inline int64_t chunks_of(const std::vector<int64_t>& sizes) {
  int64_t count = 0;
  for (const int64_t size : sizes) {
    count += at::ceil_div(size, kChunk);
  }
  return count;
}

// Calls f(i, begin, end, chunk) for the elements [begin, end) of tensor i; `chunk` counts over all tensors.
template <class F>
void for_each_chunk(const std::vector<int64_t>& sizes, const F& f) {
  std::vector<int64_t> first{0};  // first chunk of each tensor
  int64_t elements = 0;
  for (const int64_t size : sizes) {
    first.push_back(first.back() + at::ceil_div(size, kChunk));
    elements += size;
  }
  at::parallel_for(
      0, first.back(), grain_of(elements / std::max<int64_t>(1, first.back())), [&](int64_t chunk, int64_t end) {
        size_t i = std::upper_bound(first.begin(), first.end(), chunk) - first.begin() - 1;
        for (; chunk < end; ++chunk) {
          while (chunk >= first[i + 1]) {
            ++i;
          }
          const int64_t begin = (chunk - first[i]) * kChunk;
          f(i, begin, std::min(begin + kChunk, sizes[i]), chunk);
        }
      }
  );
}

}  // namespace torchnotes
