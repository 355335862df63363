// Words of 64 bits, several at once, for the formulas of philox.h. The operators ^, >>, << and & are the compiler's, of
// one vector for each instruction set. `product` is not: of its factors only the low halves count, and compilers
// multiply all of them.
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
