// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011): random numbers without a state. A block of four words is a
// function of its number b, the same on every device and in any order:
//
//   (c0, c1, c2, c3) = (b, offset), the counter of 128 bits        (k0, k1) = seed, the key
//   ten times:   p = M0 c0, q = M1 c2                              products of 64 bits, p = (p_high, p_low)
//                (c0, c1, c2, c3) <- (q_high ^ c1 ^ k0, q_low, p_high ^ c3 ^ k1, p_low)
//                (k0, k1) <- (k0 + W0, k1 + W1)
//
// In the code each c is the low half of 64 bits whose high half is ignored, so that p_low is p.
//
// The assignment of words to elements is the same for every device and every instruction set, and keeps neighbors in
// neighboring lanes. Blocks form groups of 16, whose 64 words are counted across the blocks: the word w of group g is
// number w / 16 of block 16 g + w % 16. Elements form pairs that are 16 apart, since normal numbers are generated in
// pairs:
//
//   float, and what is computed in float    a word each: word i % 64 of group i / 64 for element i
//   double                                  two words each: words r and r + 16 of group i / 32 for element i,
//                                           with r = j for j = i % 32 < 16, else j + 16
//
// As a number: u = fraction(bits) in [0, 1), of 24 bits for float and 53 for double.
#pragma once

#include "formulas/portable.h"

#include <cstdint>

#ifndef TORCHNOTES_SCALAR_ONLY
#include "formulas/vector_words.h"
#endif

namespace torchnotes {

// Identifies a stream of random numbers.
struct Key {
  uint64_t seed, offset;
};

inline constexpr int kPairDistance = 16;  // the distance of the elements of a pair, and the number of blocks in a group

C10_HOST_DEVICE inline uint64_t product(uint64_t a, uint32_t b) { return uint64_t(uint32_t(a)) * b; }

// The blocks of one or several numbers, given by their low and high halves. W is one 64-bit word or a vector of them.
template <class W>
struct Block {
  W word[4];
};

template <class W>
C10_HOST_DEVICE C10_ALWAYS_INLINE Block<W> philox(const Key& key, W low, W high) {
  const W none = low ^ low;
  W c0 = low, c1 = high, c2 = none ^ uint64_t(uint32_t(key.offset)), c3 = none ^ (key.offset >> 32);
  uint32_t k0 = uint32_t(key.seed), k1 = uint32_t(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const W p = product(c0, 0xD2511F53), q = product(c2, 0xCD9E8D57);
    c0 = (q >> 32) ^ c1 ^ uint64_t(k0);
    c1 = q;
    c2 = (p >> 32) ^ c3 ^ uint64_t(k1);
    c3 = p;
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

// The word of a single element that takes one word.
C10_HOST_DEVICE inline uint32_t word_at(const Key& key, uint64_t i) {
  const uint64_t number = i / (4 * kPairDistance) * kPairDistance + i % kPairDistance;
  return uint32_t(philox(key, number, number >> 32).word[i / kPairDistance % 4]);
}

// The random bits of an element.
template <class T>
struct Bits;

template <>
struct Bits<float> {
  uint32_t word;
};

template <>
struct Bits<double> {
  uint32_t word, second_word;
};

C10_HOST_DEVICE inline float fraction(Bits<float> bits) { return float(int32_t(bits.word >> 8)) * 0x1p-24f; }

C10_HOST_DEVICE inline double fraction(Bits<double> bits) {
  return double(int32_t(bits.word >> 5)) * 0x1p-27 + double(int32_t(bits.second_word >> 6)) * 0x1p-53;
}

// The two elements of a pair.
template <class T>
struct Pair {
  T first, second;
};

}  // namespace torchnotes
