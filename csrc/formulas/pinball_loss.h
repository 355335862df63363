// The pinball loss of a prediction f of the quantile 0 < tau < 1 of y, with weight w. With r = y - f and sigma = 1 -
// tau (passed separately, because tau may be rounded)
//
//   rho(r) = tau r for r >= 0, -sigma r for r < 0          = (tau - sigma) r/2 + |r|/2
//
// E rho(y - f) is minimal where its derivative by f, P(y < f) - tau, is 0: at the tau-quantile of y.
//
//   drho/df = -tau for r >= 0, sigma for r < 0             = -drho/dy;    d2rho/df2 = 0
//
// At the kink r = 0 the subgradient -tau of the branch r >= 0 is taken.
//
// `smoothing` is the half-width h of a window: rho_h(r) = E rho(r + h U) with U uniform in [-1, 1], which is convex
// like rho, and has a continuous derivative. E|r + h U| is |r| for |r| >= h and (r^2 + h^2) / (2h) for |r| < h, so that
// outside of the window rho_h = rho, and inside
//
//   rho_h(r) = (tau - sigma) r/2 + r^2/(4h) + h/4,   drho_h/df = (sigma - tau)/2 - r/(2h),   d2rho_h/df2 = 1/(2h)
//
// 0 <= rho_h - rho <= h/4, the greatest at r = 0: rho_h -> rho as h -> 0, and the code is the same for both. With a
// window of width 0 only NaN is inside, and the result is NaN.
//
// The mean is weighted, sum w rho / sum w, with w = 1 if there are no weights.
#pragma once

#include "formulas/portable.h"
#include "formulas/weighted.h"

namespace torchnotes {

struct Pinball {
  double smoothing;
  template <class T>
  C10_HOST_DEVICE T rho(T f, T y, T tau, T sigma) const {
    const T h = T(smoothing), r = y - f;
    const T q = T(0.5) * r / h;
    const T inside = T(0.5) * (tau - sigma) * r + h * (q * q + T(0.25));
    return where(r >= h, tau * r, where(r <= T(0) - h, (T(0) - sigma) * r, inside));
  }
  template <class T>
  C10_HOST_DEVICE Weighted<T> operator()(T f, T y, T tau, T sigma) const {
    return {rho(f, y, tau, sigma), T(1)};
  }
  template <class T>
  C10_HOST_DEVICE Weighted<T> operator()(T f, T y, T tau, T sigma, T w) const {
    return {w * rho(f, y, tau, sigma), w};
  }
};

struct PinballBackward {
  double smoothing;
  template <class T>
  C10_HOST_DEVICE T slope(T f, T y, T tau, T sigma) const {
    const T h = T(smoothing), r = y - f;
    const T inside = T(0.5) * (sigma - tau) - T(0.5) * r / h;
    return where(r >= h, T(0) - tau, where(r <= T(0) - h, sigma, inside));
  }
  template <class G, class T>
  C10_HOST_DEVICE T operator()(G g, T f, T y, T tau, T sigma) const {
    return g * slope(f, y, tau, sigma);
  }
  template <class G, class T>
  C10_HOST_DEVICE T operator()(G g, T f, T y, T tau, T sigma, T w) const {
    return w * (g * slope(f, y, tau, sigma));
  }
};

}  // namespace torchnotes
