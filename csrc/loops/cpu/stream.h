// Stores that bypass the caches, for results so large that their next reader would not find much of them in cache. A
// normal store reads the line that it overwrites and evicts data that would have been used again. Writing again to a
// line that was streamed costs more than streaming has saved. Measured in docs/decisions/streaming-stores.md.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(CPU_CAPABILITY_AVX2) || defined(CPU_CAPABILITY_AVX512)
#include <immintrin.h>
#endif

namespace torchnotes {
namespace {

constexpr int64_t kLarge = 1 << 24;  // bytes; the share of the last-level cache that a process can count on

#if defined(CPU_CAPABILITY_AVX512)
using Streamed = __m512i;
inline void store_streamed(Streamed* p, Streamed x) { _mm512_stream_si512(p, x); }
#elif defined(CPU_CAPABILITY_AVX2)
using Streamed = __m256i;
inline void store_streamed(Streamed* p, Streamed x) { _mm256_stream_si256(p, x); }
#else
struct Streamed {};  // of size 1: there are no streaming stores
inline void store_streamed(Streamed*, Streamed) {}
#endif

template <class V>
inline void stream(void* p, const V& x) {
  Streamed bits;
  std::memcpy(&bits, &x, sizeof(bits));
  store_streamed(static_cast<Streamed*>(p), bits);
}

// Whether to stream a result of this many bytes to lines that start at p and are `stride` bytes apart.
inline bool should_stream(const void* p, int64_t bytes, int64_t stride = 0) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return sizeof(Streamed) > 1 && bytes > kLarge && (address | stride) % sizeof(Streamed) == 0;
}

// Each thread that has streamed must call this before other threads read.
inline void stream_fence() {
#if defined(CPU_CAPABILITY_AVX2) || defined(CPU_CAPABILITY_AVX512)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace torchnotes
