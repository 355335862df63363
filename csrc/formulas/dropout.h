// Dropout at rate p: each element of x is 0 with probability p, and the others are scaled to make up for it,
//
//   y = d x,   d = 0 with probability p, else 1/(1 - p)        E[d] = 1,  Var[d] = p/(1 - p)
//   dy/dx = d                                                  the backward is the same function: backward(g) = d g
//
// d is a function of a key and of the element's index (philox.h), so that the backward pass regenerates it from the
// key, which is all that is saved. y is linear in x, so every further derivative is this function again, or 0. As in
// torch, 0 times a NaN or an infinity is NaN, and p = 1 gives zeros.
//
// An element is dropped if its bits, as a number in [0, 1), are below p: 32 bits for float, 53 for double.
#pragma once

#include "formulas/philox.h"

#include <algorithm>

namespace torchnotes {

struct Dropout {
  explicit Dropout(double p)
      : p(p), scale(p < 1 ? 1 / (1 - p) : 0), threshold(static_cast<uint32_t>(std::min(p * 0x1p32, 0x1p32 - 1))) {}

  C10_HOST_DEVICE Pair<float> operator()(Bits<float> a, Bits<float> b) const {
    const auto factor = float(scale);
    return {a.word < threshold ? 0.0f : factor, b.word < threshold ? 0.0f : factor};
  }
  C10_HOST_DEVICE Pair<double> operator()(Bits<double> a, Bits<double> b) const {
    return {fraction(a) < p ? 0.0 : scale, fraction(b) < p ? 0.0 : scale};
  }

  double p, scale;
  uint32_t threshold;
};

}  // namespace torchnotes
