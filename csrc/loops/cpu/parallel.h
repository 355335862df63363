// Parallel loops.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include <algorithm>
#include <cstdint>

namespace torchnotes {

// The least elements that are worth waking a thread (docs/decisions/grain.md).
constexpr int64_t kGrain = 8192;
constexpr int64_t kExponentialGrain = 2048;  // if two passes and an exponential follow each other

// The least number of tasks of `elements` elements each that are worth a thread.
inline int64_t grain_of(int64_t elements, int64_t least = kGrain) {
  return at::ceil_div(least, std::max<int64_t>(1, elements));
}

}  // namespace torchnotes
