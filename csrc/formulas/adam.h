// Adam (Kingma and Ba, 2015) keeps moving averages of the gradient and of its square. With d the gradient, plus the
// decay lambda w (gradient.h), at step t
//
//   m' = m + (1 - beta1) (d - m),    v' = beta2 v + (1 - beta2) d^2
//   w' = w - eta m^ / (sqrt(v^) + eps),    m^ = m' / (1 - beta1^t),    v^ = v' / (1 - beta2^t)
//
// The averages start at 0: for a constant d they are (1 - beta^t) times d and d^2. m^ and v^ correct this bias, so that
// dw/dt = -eta d / |d| from the first step on. AMSGrad (Reddi, Kale and Kumar, 2018) replaces v' by the greatest v' so
// far. A decoupled decay (AdamW; Loshchilov and Hutter, 2019) is not added to d, but shrinks w by 1 - eta lambda before
// the step.
#pragma once

#include "formulas/gradient.h"

#include <array>
#include <cmath>

namespace torchnotes {

template <bool kAmsgrad>
struct Adam {
  static constexpr int kStates = 2 + kAmsgrad;  // m, v, the greatest v
  double beta1, beta2, eps, lambda;
  bool decoupled;
  double eta = 0, root = 1, shrink = 1;  // eta / (1 - beta1^t), 1 / sqrt(1 - beta2^t)

  C10_HOST_DEVICE Adam at(double lr, double t) const {
    Adam rule = *this;
    rule.eta = lr / (1 - ::pow(beta1, t));
    rule.root = 1 / ::sqrt(1 - ::pow(beta2, t));
    if (decoupled) {
      rule.shrink = 1 - lr * lambda;
      rule.lambda = 0;
    }
    return rule;
  }

  template <class T>
  C10_HOST_DEVICE void operator()(T& w, T gradient, std::array<T, kStates>& state) const {
    w = T(shrink) * w;
    const T d = with_decay(gradient, w, lambda);
    T &m = state[0], &v = state[1];
    m = fma(T(1 - beta1), d - m, m);
    v = fma(T(1 - beta2) * d, d, T(beta2) * v);
    T square = v;
    if constexpr (kAmsgrad) {
      T& max_v = state[2];
      max_v = where(max_v != max_v, max_v, at_least(v, max_v));  // NaN stays, in bfloat16 too
      square = max_v;
    }
    w = fma(T(-eta), m / fma(sqrt(square), T(root), T(eps)), w);
  }
};

}  // namespace torchnotes
