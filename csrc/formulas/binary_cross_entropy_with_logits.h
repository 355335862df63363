// The cross-entropy between a target y in [0, 1] and the probability s(x) of a logit x, s(x) = 1 / (1 + e^-x), where
// positive examples count p-fold (pos_weight) and the element counts w-fold
//
//   l/w = -p y log s(x) - (1 - y) log(1 - s(x))
//       = (1 - y) x + L log(1 + e^-x),                  L = 1 + (p - 1) y,  by log(1 - s(x)) = log s(x) - x
//
// With a = |x|, log(1 + e^-x) = log(1 + e^-a) + max(-x, 0) and 1 - y - L = -p y this is a sum of two terms >= 0, which
// neither overflows nor cancels:
//
//   l/w = a q + L log(1 + e^-a),                        q = p y for x < 0, 1 - y for x >= 0
//
// With weights the terms are grouped differently, because L may overflow where the logarithm is 0:
//
//   l/w = q (a + log(1 + e^-a)) + q' log(1 + e^-a),     q' = 1 - y for x < 0, p y for x >= 0,  q + q' = L
//
// The derivative is not a difference of numbers near 1 either. With t = s(-a) <= 1/2, t = 1 - s(a):
//
//   (dl/dx)/w   = (1 - y) - L s(-x) = L t - p y for x < 0, (1 - y) - L t for x >= 0       = s(x) - y for p = 1
//   (dl/dy)/w   = p log(1 + e^-x) - log(1 + e^x)                                       = -x for p = 1
//   (dl/dp)/w   = y log(1 + e^-x)
//   (d2l/dx2)/w = L s (1 - s) >= 0: l is convex in x;   (d2l/dxdy)/w = -s - p s(-x);   (d2l/dxdp)/w = -y s(-x)
//
// Label smoothing by e replaces y by y (1 - e) + e/2. An element with y = ignored has no loss and no gradient and does
// not count in the mean, whatever its x; if no element is to be ignored, `ignored` is NaN, which equals nothing. As in
// torch the mean is over the number of elements, weighted or not.
#pragma once

#include "formulas/portable.h"
#include "formulas/weighted.h"

namespace torchnotes {

struct Labels {
  double smoothing, ignored;
  template <class T>
  C10_HOST_DEVICE T smooth(T y) const {
    return y * T(1 - smoothing) + T(smoothing / 2);
  }
};

struct BinaryCrossEntropy : Labels {
  template <class T>
  C10_HOST_DEVICE Weighted<T> operator()(T x, T label) const {
    const T y = smooth(label), a = abs(x);
    return counted(label, fma(a, where(x < T(0), y, T(1) - y), log1p_exp(T(0) - a)));
  }
  template <class T>
  C10_HOST_DEVICE Weighted<T> operator()(T x, T label, T w, T p) const {
    const T y = smooth(label), yes = p * y, no = T(1) - y, a = abs(x), log = log1p_exp(T(0) - a);
    const T far = where(x < T(0), yes, no), near = where(x < T(0), no, yes);
    return counted(label, w * fma(far, a + log, near * log));
  }
  template <class T>
  C10_HOST_DEVICE Weighted<T> counted(T label, T loss) const {
    return {where(label == T(ignored), T(0), loss), where(label == T(ignored), T(0), T(1))};
  }
};

struct BinaryCrossEntropyBackward : Labels {
  template <class G, class T>
  C10_HOST_DEVICE T operator()(G g, T x, T label) const {
    const T y = smooth(label), t = logistic(T(0) - abs(x));
    const T no = T(1) - y, lost = (T(1) - no) - y;  // the rounding error of 1 - y
    return where(label == T(ignored), T(0), g * where(x < T(0), t - y, (no - t) + lost));
  }
  template <class G, class T>
  C10_HOST_DEVICE T operator()(G g, T x, T label, T w, T p) const {
    const T y = smooth(label), t = logistic(T(0) - abs(x));
    const T l = fma(p - T(1), y, T(1));
    const T no = T(1) - y, lost = (T(1) - no) - y;
    const T slope = where(x < T(0), fma(T(0) - p, y, l * t), fma(T(0) - l, t, no) + lost);
    return where(label == T(ignored), T(0), w * (g * slope));
  }
};

}  // namespace torchnotes
