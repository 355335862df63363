// The norm of several vectors taken as one:
//
//   n = sqrt(sum g_i^2),    dn/dg_i = g_i / n
//
// The squares are added up in double precision, so that neither the number of elements nor their order costs accuracy,
// and squares of float neither overflow nor vanish.
#pragma once

#include "formulas/portable.h"

namespace torchnotes {

struct SumOfSquares {
  template <class T>
  C10_HOST_DEVICE Wide<T> operator()(const Wide<T>& sum, T g) const {
    const Wide<T> wide = widen(g);
    return fma(wide, wide, sum);
  }
};

}  // namespace torchnotes
