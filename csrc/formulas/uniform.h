// Uniform numbers: with u uniform in [0, 1) (philox.h)
//
//   x = low + (high - low) u,    dx/dlow = 1 - u,    dx/dhigh = u
//
// The variance is (high - low)^2 / 12. Rounding may make x equal to high.
#pragma once

#include "formulas/philox.h"

namespace torchnotes {

struct Uniform {
  double low, high;
  template <class T>
  C10_HOST_DEVICE Pair<T> operator()(Bits<T> a, Bits<T> b) const {
    return {T(low) + T(high - low) * fraction(a), T(low) + T(high - low) * fraction(b)};
  }
};

}  // namespace torchnotes
