// Numbers of 16 bits whose updates are smaller than their last place. Rounded to the nearest, w + u stays w for
// |u| < 2^-9 |w| (bfloat16), and training stalls. Two remedies:
//
//   stochastic   up or down, with probabilities such that the mean is right: with x = n q + r, q the unit of the last
//                place of x and 0 <= r < q, the result is (n + [u q < r]) q, and E[result] = x, for u uniform in [0, 1)
//   kahan        c, saved next to w, holds what rounding takes away: w' + c' = (w + c) + u, w' the nearest to it
//
// u is given by random bits that are added to the bits to be cut off: a carry rounds up.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>

#include "formulas/portable.h"

namespace torchnotes {

template <class T>
C10_HOST_DEVICE inline T bits_as(const auto& x) {
  static_assert(sizeof(T) == sizeof(x));
  T y;
  std::memcpy(static_cast<void*>(&y), &x, sizeof(y));
  return y;
}

// x rounded up or down to a bfloat16 value; both may be vectors.
template <class X, class Word>
C10_HOST_DEVICE inline X rounded(const X& x, const Word& word, c10::BFloat16) {
  const auto bits = bits_as<Word>(x);
  const Word carried = (bits + (word >> 16)) & 0xffff0000u;
  return bits_as<X>((bits & 0x7f800000u) == 0x7f800000u ? bits : carried);  // infinity and NaN stay
}

// The same for half, whose last place is 2^-24 below 2^-14: there x is split into a multiple of it and a remainder.
C10_HOST_DEVICE inline float rounded(float x, uint32_t word, c10::Half) {
  const auto bits = bits_as<uint32_t>(x);
  const auto carried = bits_as<float>((bits + (word >> 19)) & 0xffffe000u);
  const float magnitude = abs(x), places = magnitude * 0x1p24f;
  const int32_t whole = int32_t(places < 1024.0f ? places : 0.0f);
  const float fraction = float(int32_t(word >> 8)) * 0x1p-24f;
  const float small = float(whole + int32_t(fraction < places - float(whole))) * 0x1p-24f;
  const float result = magnitude < 0x1p-14f ? (x < 0 ? -small : small) : carried;
  return (bits & 0x7f800000u) == 0x7f800000u ? x : result;
}

}  // namespace torchnotes
