// The squared error of a prediction x for the target y, with weight w
//
//   l(x, y)  = w (x - y)^2
//   dl/dx    = 2w (x - y) = -dl/dy
//   d2l/dx2  = 2w         = d2l/dy2 = -d2l/dxdy      constant: every third derivative is 0
//
// The mean is weighted, sum l / sum w, with w = 1 if there are no weights.
#pragma once

#include "formulas/portable.h"
#include "formulas/weighted.h"

namespace torchnotes {

struct SquaredError {
  template <class T>
  C10_HOST_DEVICE Weighted<T> operator()(T x, T y) const {
    const T r = x - y;
    return {r * r, T(1)};
  }
  template <class T>
  C10_HOST_DEVICE Weighted<T> operator()(T x, T y, T w) const {
    const T r = x - y;
    return {r * r * w, w};
  }
};

struct SquaredErrorBackward {
  template <class G, class T>
  C10_HOST_DEVICE T operator()(G g, T x, T y) const {
    const T d = g * (x - y);
    return d + d;
  }
  template <class G, class T>
  C10_HOST_DEVICE T operator()(G g, T x, T y, T w) const {
    const T d = (g * w) * (x - y);
    return d + d;
  }
};

}  // namespace torchnotes
