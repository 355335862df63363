// Batch normalization of a channel of n numbers x_i, followed by an activation f
//
//   mu = sum x_i / n,   v = sum (x_i - mu)^2 / n,   r = 1 / sqrt(v + eps)
//   x^_i = (x_i - mu) r,   z_i = gamma x^_i + beta,   y_i = f(z_i)
//
// With d_i = dL/dy_i f'(z_i) = dL/dz_i, and because x^ depends on every x through mu and r:
//
//   dL/dbeta = sum d_i,   dL/dgamma = sum d_i x^_i
//   dL/dx_i  = gamma r (d_i - 1/n sum_j d_j - x^_i 1/n sum_j d_j x^_j)
//
// In the mean-only form r = 1 is a constant, and the last term vanishes:
//
//   dx^_i/dx_j = [i = j] - 1/n,   dL/dx_i = gamma (d_i - 1/n sum_j d_j)
//
// For n = 1 this gives x^ = 0 and the gradient 0; for n -> infinity the gradient tends to gamma d_i. If mu and v are
// given (running statistics) they are constants: dL/dx_i = gamma r d_i.
//
// Differences from some element k of the channel are summed, in double precision:
//
//   mu = k + sum (x_i - k) / n,   n v = sum (x_i - k)^2 - (sum (x_i - k))^2 / n
//
// In the worst case, if only k differs from the rest, (k - mu)^2 = n v, and as many of 16 digits are lost as n has. A
// constant channel has v = 0 exactly. The sums of the backward pass lose nothing to cancellation, so a few 16-bit
// numbers are added up in single precision first. mu and r are saved in double precision. With m for mu rounded to the
// precision of the arithmetic, x - mu is computed as (x - m) - (mu - m), so that a large mean costs no precision.
//
// In place, if f is piecewise linear with positive slopes and gamma is not too small (may_invert), y overwrites x and
//
//   z = f^-1(y),   x - mu = (z - beta) / (gamma r)
#pragma once

#include "formulas/leaky_relu.h"
#include "formulas/portable.h"

namespace torchnotes {

// The sums below for a few numbers, in the precision of the arithmetic.
template <class T>
struct PartialChannelSums {
  T sum_a, sum_ab;

  static C10_HOST_DEVICE T number(T x) { return x; }
  C10_HOST_DEVICE void add(T a, T b) {
    sum_a = sum_a + a;
    sum_ab = fma(a, b, sum_ab);
  }
  C10_HOST_DEVICE void merge(const PartialChannelSums& other) {
    sum_a = sum_a + other.sum_a;
    sum_ab = sum_ab + other.sum_ab;
  }
};

// The sums over a channel: sum a and sum a b, for a = b = x - k, or for a = dL/dz and b = x - m.
template <class T>
struct ChannelSums {
  using Number = double;  // the type of each lane
  Wide<T> sum_a, sum_ab;

  static C10_HOST_DEVICE ChannelSums start() { return {widen(T(0)), widen(T(0))}; }
  static C10_HOST_DEVICE Wide<T> number(T x) { return widen(x); }
  C10_HOST_DEVICE void add(Wide<T> a, Wide<T> b) {
    sum_a = sum_a + a;
    sum_ab = fma(a, b, sum_ab);
  }
  C10_HOST_DEVICE void merge(const ChannelSums& other) {
    sum_a = sum_a + other.sum_a;
    sum_ab = sum_ab + other.sum_ab;
  }
  C10_HOST_DEVICE void merge(const PartialChannelSums<T>& few) {
    sum_a = sum_a + widen(few.sum_a);
    sum_ab = sum_ab + widen(few.sum_ab);
  }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(ChannelSums<Scalar>& result) const {
    result.merge(ChannelSums<Scalar>{sum_of_lanes(sum_a), sum_of_lanes(sum_ab)});
  }
};

// What follows describes channels, one per lane; W = Wide<T>.
template <class W>
struct Moments {
  W mean, variance;
};

template <class T, class W = Wide<T>>
C10_HOST_DEVICE inline Moments<W> moments(const ChannelSums<T>& about, W k, double inverse_n) {
  const W mean = about.sum_a * W(inverse_n), variance = about.sum_ab * W(inverse_n) - mean * mean;
  return {k + mean, where(variance < W(0.0), W(0.0), variance)};
}

template <class W>
struct Channel {
  W mean, rstd, gamma, beta;
};

// The affine map of a channel. u = base - m, where the base is x, or z = f^-1(y) if only y is available, and z = scale
// u + offset. Exactly, x - mu = x_per_u (u - mean_error).
template <class T>
struct ChannelMap {
  T m, scale, offset;
};

struct FromInput {
  template <class V>
  C10_HOST_DEVICE V base(V x) const {
    return x;
  }
  template <class T, class V>
  C10_HOST_DEVICE V z(const ChannelMap<T>& map, V, V u) const {
    return fma(u, V(map.scale), V(map.offset));
  }
  template <class T, class W>
  static C10_HOST_DEVICE W mean_error(const Channel<W>& c) {
    return c.mean - widen(narrow<T>(c.mean));
  }
  template <class W>
  static C10_HOST_DEVICE W x_per_u(const Channel<W>&) {
    return W(1.0);
  }
  template <class T, class W>
  static C10_HOST_DEVICE ChannelMap<T> channel_map(const Channel<W>& c) {
    const W scale = c.gamma * c.rstd;
    return {narrow<T>(c.mean), narrow<T>(scale), narrow<T>(c.beta - mean_error<T>(c) * scale)};
  }
};

struct FromOutput {
  double inverse_slope;
  template <class V>
  C10_HOST_DEVICE V base(V y) const {
    return LeakyReLU{inverse_slope}.forward(y);
  }
  template <class T, class V>
  C10_HOST_DEVICE V z(const ChannelMap<T>&, V y, V) const {
    return y;  // has the sign of z, which determines the slope
  }
  template <class T, class W>
  static C10_HOST_DEVICE W mean_error(const Channel<W>&) {
    return W(0.0);
  }
  template <class W>
  static C10_HOST_DEVICE W x_per_u(const Channel<W>& c) {
    return W(1.0) / (c.gamma * c.rstd);
  }
  template <class T, class W>
  static C10_HOST_DEVICE ChannelMap<T> channel_map(const Channel<W>& c) {
    return {narrow<T>(c.beta), T(1), T(0)};
  }
};

// Whether y determines x well enough: (z - beta) / gamma errs by (|x^| + |beta / gamma|) roundings of y. See
// docs/decisions/batch-norm-in-place.md.
C10_HOST_DEVICE inline bool may_invert(double gamma, double beta, double most) {
  const double size = gamma < 0 ? -gamma : gamma;
  return size >= 0x1p-60 && (beta < 0 ? -beta : beta) <= most * size;  // false if either is NaN
}

// a - b, but an infinite a stays as it is
template <class W>
C10_HOST_DEVICE inline W subtract(W a, W b) {
  return where(a - a == W(0.0), a - b, a);
}

// dL/dx = p d + q u + t
template <class T>
struct ChannelGradient {
  ChannelMap<T> map;
  T p, q, t;

  template <class V>
  C10_HOST_DEVICE V operator()(V d, V u) const {
    return fma(V(p), d, where(V(q) == V(0), V(t), fma(V(q), u, V(t))));  // an infinite u counts only if q is not 0
  }
};

// dL/dx = p d, if mu and v are given
template <class T>
struct ChannelScale {
  ChannelMap<T> map;
  T p;
};

// sum d and sum d x^
template <class W>
struct ChannelTotals {
  W sum_d, sum_dx;
};

// From the sums of d and d u.
template <class Reference, class T, class W>
C10_HOST_DEVICE inline ChannelTotals<W> channel_totals(const Channel<W>& c, const ChannelSums<T>& sums) {
  const W mean_error = Reference::template mean_error<T>(c);
  return {sums.sum_a, subtract(sums.sum_ab, mean_error * sums.sum_a) * Reference::x_per_u(c) * c.rstd};
}

// For n numbers with mean mu; 1/n = 0 if mu and v are given.
template <class Reference, class T, class W>
C10_HOST_DEVICE inline ChannelGradient<T> channel_gradient(
    const Channel<W>& c, const ChannelTotals<W>& totals, double inverse_n, bool center_only
) {
  const W p = c.gamma * c.rstd, zero(0.0);
  const W t = inverse_n == 0 ? zero : p * totals.sum_d * W(-inverse_n);
  const W q = inverse_n == 0 || center_only ? zero : p * c.rstd * Reference::x_per_u(c) * totals.sum_dx * W(-inverse_n);
  return {
      Reference::template channel_map<T>(c),
      narrow<T>(p),
      narrow<T>(q),
      narrow<T>(subtract(t, q * Reference::template mean_error<T>(c)))
  };
}

}  // namespace torchnotes
