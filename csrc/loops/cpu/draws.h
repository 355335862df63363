// for_each_draw(device, draw, noise) generates one number per element with a Draw of formulas/.
#pragma once

#include <c10/core/Device.h>

#include "formulas/philox.h"
#include "loops/noise.h"
#include "loops/precision.h"

namespace torchnotes {

// Writes n draws, rounded up to whole pairs.
template <class T>
using WriteDraws = void (*)(const void* draw, const uint32_t* words, int64_t n, T* out);

void for_each_draw(WriteDraws<float> write, const void* draw, const Noise& noise);
void for_each_draw(WriteDraws<double> write, const void* draw, const Noise& noise);

namespace detail {

inline Bits<float> bits_at(const uint32_t* words, float) { return {words[0]}; }
inline Bits<double> bits_at(const uint32_t* words, double) { return {words[0], words[kPairDistance]}; }

// Plain loops, which the compiler vectorizes.
template <class Draw, class T>
void write_draws(const void* draw_, const uint32_t* words, int64_t n, T* out) {
  constexpr int kRow = kPairDistance * sizeof(T) / sizeof(uint32_t);  // the words of 16 elements
  const Draw draw = *static_cast<const Draw*>(draw_);
  for (int64_t i = 0; i < n; i += 2 * kPairDistance, words += 2 * kRow) {
    for (int lane = 0; lane < kPairDistance; ++lane) {
      const Pair<T> pair = draw(bits_at(words + lane, T()), bits_at(words + kRow + lane, T()));
      out[i + lane] = pair.first;
      out[i + kPairDistance + lane] = pair.second;
    }
  }
}

}  // namespace detail

template <class Draw>
void for_each_draw(c10::Device, const Draw& draw, const Noise& noise) {
  with_precision(noise.type, [&](auto zero) {
    for_each_draw(detail::write_draws<Draw, decltype(zero)>, static_cast<const void*>(&draw), noise);
  });
}

}  // namespace torchnotes
