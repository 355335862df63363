// The rectifier
//
//   f(z)  = max(0, z)
//   f'(z) = 1 for z > 0, 0 for z < 0; at the kink z = 0 the subgradient 0 is taken
//   f''   = 0
//
// f(z) > 0 iff z > 0, so the output y = f(z) determines the branch and is all that is saved:
//
//   backward(y, g) = g where y > 0, else 0     chosen, not multiplied: an infinite g is stopped at 0 too
//
// NaN gives NaN and lets the gradient pass, as in torch. -0 stays -0, as in torch.
#pragma once

#include "portable.h"

namespace torchnotes {

struct ReLU {
  template <class T>
  C10_HOST_DEVICE T operator()(T z) const {
    return at_least(z, T(0));
  }
};

struct ReLUBackward {
  template <class T>
  C10_HOST_DEVICE T operator()(T y, T g) const {
    return where(y <= T(0), T(0), g);
  }
};

}  // namespace torchnotes
