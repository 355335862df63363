// The softplus, a smooth rectifier of sharpness b (beta). Above a threshold of b z it is the identity, as in torch
//
//   f(z)   = ln(1 + e^(b z)) / b = max(z, 0) + ln(1 + e^-|b z|) / b
//   f'(z)  = s(b z),    s(x) = 1 / (1 + e^-x)          -> 0 for z -> -infinity, 1 for z -> infinity
//   f''(z) = b s (1 - s)                                greatest at z = 0, where it is b/4
//
// The input is saved, as in torch: where f(z) underflows in half precision, f'(z) cannot be recovered from it.
//
//   backward(g, z)     = g p(z),      p  = s(b z)
//   curvature(v, g, z) = v (g p'(z)), p' = b s (1 - s)
//
// With e = e^-|b z|, which does not overflow, s is e / (1 + e) or 1 / (1 + e), and s (1 - s) = e / (1 + e)^2.
//
// Where an operation that ends with a softplus has only its output y, f' = 1 - e^(-b y) = 2u / (1 + u) with
// u = tanh(b y / 2), which does not cancel for small y.
#pragma once

#include "formulas/portable.h"

namespace torchnotes {

struct Softplus {
  static constexpr const char* kName = "softplus";
  static constexpr bool kSavesInput = true;
  double beta = 1, threshold = 20;

  template <class T>
  C10_HOST_DEVICE T forward(T z) const {
    const T x = z * T(beta), tail = log1p_exp(T(0) - abs(x)) * T(1 / beta);
    return where(x > T(threshold), z, at_least(z, T(0)) + tail);
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T z) const {
    const T x = z * T(beta), e = exp_nonpositive(T(0) - abs(x)), s = where(x < T(0), e, T(1)) / (T(1) + e);
    return where(x > T(threshold), g, g * s);
  }
  template <class T>
  C10_HOST_DEVICE T curvature(T v, T g, T z) const {
    const T x = z * T(beta), e = exp_nonpositive(T(0) - abs(x)), s = T(1) / (T(1) + e);
    return where(x > T(threshold), T(0), v * (g * (T(beta) * (s * (s * e)))));
  }
  template <class T>
  C10_HOST_DEVICE T backward_of_output(T g, T y) const {
    const T x = y * T(beta), u = tanh(x * T(0.5));
    return where(x > T(threshold), g, g * (u + u) / (T(1) + u));
  }
};

}  // namespace torchnotes
