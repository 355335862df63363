// Generates many words of random numbers (philox.h) at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "formulas/philox.h"

namespace torchnotes {
namespace {

constexpr int64_t kGroup = 4 * kPairDistance;  // words

#if defined(CPU_CAPABILITY_AVX512)
constexpr Words kEven = {0, 2, 4, 6, 8, 10, 12, 14};
#else
constexpr Words kEven = {0, 2, 4, 6};
#endif

// Writes the words of `groups` groups of blocks, starting with `group`.
inline void write_words(uint32_t* out, const Key& key, int64_t group, int64_t groups) {
  for (const int64_t end = group + groups; group < end; ++group, out += kGroup) {
    const uint64_t number = uint64_t(group) * kPairDistance;
    for (int first = 0; first < kPairDistance; first += 2 * kWords) {
      // Even and odd blocks, whose words are then interleaved.
      const Words even = kEven + uint32_t(number + first), high = Words{} + (number >> 32);
      const auto a = philox(key, even, high), b = philox(key, even + 1, high);
      for (int j = 0; j < 4; ++j) {
        const Words both = (a.word[j] & 0xffffffff) | (b.word[j] << 32);
        std::memcpy(out + j * kPairDistance + first, &both, sizeof(both));
      }
    }
  }
}

}  // namespace
}  // namespace torchnotes
