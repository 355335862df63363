// The rectifier
//
//   f(z)  = max(0, z)
//   f'(z) = 1 for z > 0, 0 for z < 0; at the kink z = 0 the subgradient 0 is taken
//   f''   = 0
//
// f(z) > 0 iff z > 0, so the output y = f(z) determines the branch and is all that is saved:
//
//   backward(g, y) = g where y > 0, else 0     chosen, not multiplied: an infinite g is stopped at 0 too
//
// NaN gives NaN and lets the gradient pass, as in torch. -0 stays -0, as in torch.
#pragma once

#include "formulas/portable.h"

namespace torchnotes {

struct ReLU {
  static constexpr const char* kName = "relu";
  static constexpr bool kRectifies = true;
  template <class T>
  C10_HOST_DEVICE T forward(T z) const {
    return at_least(z, T(0));
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T y) const {
    return where(y <= T(0), T(0), g);
  }
};

}  // namespace torchnotes
