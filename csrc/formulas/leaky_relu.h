// The leaky rectifier with slope a (negative_slope)
//
//   f(z)  = z for z > 0, a z for z <= 0        = max(a z, z) when 0 <= a <= 1
//   f'(z) = 1 for z > 0, a for z <= 0          at the kink z = 0 the subgradient a is taken
//   f''   = 0
//
// For a >= 0, f(z) > 0 iff z > 0: the output determines the branch and is all that is saved. For a < 0 it does not
// (both branches reach positive values), and the input is saved instead:
//
//   backward(g, r) = g where r > 0, else a g       r = f(z) for a >= 0, r = z for a < 0
//
// NaN gives NaN and takes the slope a, as in torch.
#pragma once

#include "formulas/portable.h"

namespace torchnotes {

struct LeakyReLU {
  static constexpr const char* kName = "leaky_relu";
  static constexpr bool kRectifies = true;
  double negative_slope;
  template <class T>
  C10_HOST_DEVICE T forward(T z) const {
    return where(z > T(0), z, z * T(negative_slope));
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T r) const {
    return where(r > T(0), g, g * T(negative_slope));
  }
};

}  // namespace torchnotes
