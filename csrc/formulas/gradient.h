// The gradient as an update rule receives it. The loss may have been multiplied by S, so that small gradients do not
// vanish in half precision, and the norm of all gradients may be limited to c (Pascanu, Mikolov and Bengio, 2013):
//
//   g = dE/dw = (dSE/dw) / S,     d = ± min(1, c / (|g| + 1e-6)) g,     - to maximize E
//
// A weight decay of lambda adds the gradient of (lambda/2) w^2, d + lambda w.
#pragma once

#include "formulas/portable.h"

namespace torchnotes {

C10_HOST_DEVICE inline double clip_factor(double max_norm, double norm) {
  return at_most(max_norm / (norm + 1e-6), 1.0);
}

struct Gradient {
  bool scaled = false;
  double scale = 1, factor = 1;

  template <class T>
  C10_HOST_DEVICE T unscaled(T g) const {
    return g / T(scale);
  }
  template <class T>
  C10_HOST_DEVICE T operator()(T g) const {
    return T(factor) * g;
  }
};

template <class T>
C10_HOST_DEVICE inline T with_decay(T d, T w, double lambda) {
  return lambda == 0 ? d : fma(T(lambda), w, d);  // without decay an infinite w has no effect
}

}  // namespace torchnotes
