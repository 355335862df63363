// Stores that go past the caches: for large images, of which whoever reads them next would not find much there anyway.
// A common store reads the line first that it overwrites, and drives out what would have been read again. To write to a
// line again that was streamed costs more than was won.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(CPU_CAPABILITY_AVX2) || defined(CPU_CAPABILITY_AVX512)
#include <immintrin.h>
#endif

namespace torchnotes {
namespace {

constexpr int64_t kLarge = 1 << 24;  // bytes; what one process can count on of the last cache

#if defined(CPU_CAPABILITY_AVX512)
using Streamed = __m512i;
inline void store_streamed(Streamed* p, Streamed x) { _mm512_stream_si512(p, x); }
#elif defined(CPU_CAPABILITY_AVX2)
using Streamed = __m256i;
inline void store_streamed(Streamed* p, Streamed x) { _mm256_stream_si256(p, x); }
#else
struct Streamed {};  // of size 1: there is no such store
inline void store_streamed(Streamed*, Streamed) {}
#endif

template <class V>
inline void stream(void* p, const V& x) {
  Streamed bits;
  std::memcpy(&bits, &x, sizeof(bits));
  store_streamed(static_cast<Streamed*>(p), bits);
}

// Whether a result of so many bytes is to be streamed to lines that begin here and follow one another by `stride`
// bytes.
inline bool streams(const void* p, int64_t bytes, int64_t stride = 0) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return sizeof(Streamed) > 1 && bytes > kLarge && (address | stride) % sizeof(Streamed) == 0;
}

// To be called by each thread that has streamed, before others read.
inline void end_of_stream() {
#if defined(CPU_CAPABILITY_AVX2) || defined(CPU_CAPABILITY_AVX512)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace torchnotes
