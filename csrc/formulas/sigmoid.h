// The logistic sigmoid
//
//   s(z)   = 1 / (1 + e^-z)
//   s'(z)  = s (1 - s)                              greatest at z = 0, where it is 1/4; -> 0 at both infinities
//   s''(z) = s (1 - s)(1 - 2s) = 2s^3 - 3s^2 + s    positive iff s < 1/2
//
// Both derivatives are functions of the output y = s(z) alone, so y is all that is saved:
//
//   backward(g, y)     = g p(y),      p(y)  = y (1 - y) = s'
//   curvature(v, g, y) = v (g p'(y)), p'(y) = 1 - 2y       the derivative of `backward` by y, in direction v
//
// and s'' = p'(y) p(y). p'' = -2 is constant, so the third derivative needs no kernel of its own.
//
// Where s underflows it passes through the denormal numbers to 0; NaN gives NaN.
#pragma once

#include "formulas/portable.h"

namespace torchnotes {

struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  template <class T>
  C10_HOST_DEVICE T forward(T z) const {
    return logistic(z);
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T y) const {
    return g * (y * (T(1) - y));
  }
  template <class T>
  C10_HOST_DEVICE T curvature(T v, T g, T y) const {
    return v * (g * (T(1) - (y + y)));
  }
};

}  // namespace torchnotes
