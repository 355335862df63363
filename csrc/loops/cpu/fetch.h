// Prefetches memory for loops that process some contiguous rows side by side, which the processor does not foresee:
// stores that miss the caches take as long as loads. Measured in docs/decisions/batch-norm-traversal.md.
#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

namespace torchnotes {

constexpr int64_t kLine = 64;     // bytes of a cache line
constexpr int64_t kAhead = 8192;  // bytes from where rows are processed to where they are prefetched

enum Fetched { kIntoL1 = 3, kIntoL2 = 2 };

// Prefetches `bytes` bytes, kAhead after p. GCC removes calls of functions that only prefetch, unless they are inlined
// before it looks for functions without effect.
template <int64_t bytes, Fetched fetched, bool writes = false>
C10_ALWAYS_INLINE void fetch(const void* p) {
  for (int64_t at = 0; at < bytes; at += kLine) {
    __builtin_prefetch(static_cast<const char*>(p) + kAhead + at, writes, fetched);
  }
}

}  // namespace torchnotes
