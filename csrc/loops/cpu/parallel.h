// Parallel loops, with chunks as large as ATen's.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include <algorithm>
#include <cstdint>

namespace torchnotes {

// The least number of tasks of `elements` elements each that are worth a thread.
inline int64_t grain_of(int64_t elements) { return at::ceil_div<int64_t>(32768, std::max<int64_t>(1, elements)); }

}  // namespace torchnotes
