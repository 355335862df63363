// Vectors of 64-bit words for the formulas of philox.h. The operators ^, >>, << and & are the compiler's, with one
// vector type per instruction set. `product` is written by hand: only the low halves of its factors matter, but
// compilers multiply all 64 bits (docs/decisions/random-numbers.md).
#pragma once

#include <cstdint>

#if defined(CPU_CAPABILITY_AVX2) || defined(CPU_CAPABILITY_AVX512)
#include <immintrin.h>
#endif

namespace torchnotes {

#if defined(CPU_CAPABILITY_AVX512)
inline constexpr int kWords = 8;
#else
inline constexpr int kWords = 4;
#endif

typedef uint64_t Words __attribute__((vector_size(8 * kWords)));

inline Words product(Words a, uint32_t b) {
#if defined(CPU_CAPABILITY_AVX512)
  return reinterpret_cast<Words>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b)));
#elif defined(CPU_CAPABILITY_AVX2)
  return reinterpret_cast<Words>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(b)));
#else
  return (a & 0xffffffff) * b;
#endif
}

}  // namespace torchnotes
