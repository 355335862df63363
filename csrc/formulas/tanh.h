// The hyperbolic tangent
//
//   t(z)   = (e^2z - 1) / (e^2z + 1)
//   t'(z)  = 4 e^2z / (e^2z + 1)^2 = 1 - t^2    greatest at z = 0, where it is 1 (not 1/2, as one note has it);
//                                               -> 0 at both infinities
//   t''(z) = -2 t (1 - t^2)
//
// Both derivatives are functions of the output y = t(z) alone, so y is all that is saved:
//
//   backward(g, y)     = g p(y),      p(y)  = 1 - y^2 = t'
//   curvature(v, g, y) = v (g p'(y)), p'(y) = -2y          the derivative of `backward` by y, in direction v
//
// and t'' = p'(y) p(y). p'' = -2 is constant, so the third derivative needs no kernel of its own.
//
// p is one fused multiply-add, so that y^2 is not rounded before 1 - y^2 cancels.
#pragma once

#include "formulas/portable.h"

namespace torchnotes {

struct Tanh {
  static constexpr const char* kName = "tanh";
  template <class T>
  C10_HOST_DEVICE T forward(T z) const {
    return tanh(z);
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T y) const {
    return g * fma(-y, y, T(1));
  }
  template <class T>
  C10_HOST_DEVICE T curvature(T v, T g, T y) const {
    return v * (g * (T(-2) * y));
  }
};

}  // namespace torchnotes
