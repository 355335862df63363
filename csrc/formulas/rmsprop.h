// RMSProp (Hinton, 2012) divides each step by C, the root of the moving average of the squared gradient, so that the
// length of a step does not depend on that of the gradient. With d the gradient, plus the decay lambda w (gradient.h),
//
//   v' = alpha v + (1 - alpha) d^2,    C = sqrt(v') + eps,    w' = w - eta d / C
//
// For a constant d: v -> d^2, so that dw/dt = -eta d / |d|. Centered, C is the root of the variance (Graves, 2013):
//
//   m' = m + (1 - alpha) (d - m),      C = sqrt(v' - m'^2) + eps
//
// where v' - m'^2 >= 0 except for rounding. With momentum the quotients accumulate: b' = mu b + d / C, w' = w - eta b'.
// A decoupled decay (Loshchilov and Hutter, 2019) is not added to d, but shrinks w by 1 - eta lambda before the step.
#pragma once

#include "formulas/gradient.h"

#include <array>

namespace torchnotes {

template <bool kCentered, bool kMomentum>
struct RMSprop {
  static constexpr int kStates = 1 + kCentered + kMomentum;  // v, m, b
  double alpha, eps, mu, lambda;
  bool decoupled;
  double eta = 0, shrink = 1;

  C10_HOST_DEVICE RMSprop at(double lr, double) const {
    RMSprop rule = *this;
    rule.eta = lr;
    if (decoupled) {
      rule.shrink = 1 - lr * lambda;
      rule.lambda = 0;
    }
    return rule;
  }

  template <class T>
  C10_HOST_DEVICE void operator()(T& w, T gradient, std::array<T, kStates>& state) const {
    const T d = with_decay(gradient, w, lambda);
    T& v = state[0];
    v = fma(T(1 - alpha) * d, d, T(alpha) * v);
    T square = v;
    if constexpr (kCentered) {
      T& m = state[1];
      m = fma(T(1 - alpha), d - m, m);
      square = at_least(fma(T(-1) * m, m, v), T(0));
    }
    T step = d / (sqrt(square) + T(eps));
    if constexpr (kMomentum) {
      T& b = state[1 + kCentered];
      b = fma(T(mu), b, step);
      step = b;
    }
    w = fma(T(-eta), step, T(shrink) * w);
  }
};

}  // namespace torchnotes
