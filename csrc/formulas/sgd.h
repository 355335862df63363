// Gradient descent with momentum (Polyak, 1964), in torch's form. With d the gradient, plus the decay lambda w
// (gradient.h),
//
//   w' = w - eta d                                 a step of length eta along dw/dt = -dE/dw
//
//   b' = mu b + (1 - tau) d,    b' = d in the first step
//   w' = w - eta b'                                a ball with friction: the steps of a constant d add up to
//   w' = w - eta (d + mu b')                       eta d / (1 - mu); the second is Nesterov's, who looks ahead
//
// If the gradient is Lipschitz with constant L, a step of eta = 1/L without momentum lowers the function by at least
// |d|^2 / 2L.
#pragma once

#include "formulas/gradient.h"

#include <array>

namespace torchnotes {

template <bool kMomentum>
struct SGD {
  static constexpr int kStates = kMomentum;  // b
  double mu, tau, lambda;
  bool nesterov, first;
  double eta = 0;

  C10_HOST_DEVICE SGD at(double lr, double) const {
    SGD rule = *this;
    rule.eta = lr;
    return rule;
  }

  template <class T>
  C10_HOST_DEVICE void operator()(T& w, T gradient, std::array<T, kStates>& state) const {
    T d = with_decay(gradient, w, lambda);
    if constexpr (kMomentum) {
      T& b = state[0];
      b = first ? d : fma(T(mu), b, T(1 - tau) * d);
      d = nesterov ? fma(T(mu), b, d) : b;
    }
    w = fma(T(-eta), d, w);
  }
};

}  // namespace torchnotes
