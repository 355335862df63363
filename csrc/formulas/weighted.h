// The weighted loss of one element or of many, and the weight with which it counts in the mean
//
//   mean = sum of losses / sum of weights
//
// A backward formula multiplies by g, a number or a Factor, before it multiplies by anything that may be large, so that
// a finite product does not overflow on the way.
#pragma once

#include "formulas/portable.h"

namespace torchnotes {

template <class T>
struct Weighted {
  T loss, weight;
  C10_HOST_DEVICE void merge(const Weighted& other) {
    loss = loss + other.loss;
    weight = weight + other.weight;
  }
};

// The same for many rows, in double precision.
template <class T>
struct WideWeighted {
  using Number = double;  // the type of each lane
  Wide<T> loss, weight;
  C10_HOST_DEVICE void add(T l, T w) {
    loss = loss + widen(l);
    weight = weight + widen(w);
  }
  C10_HOST_DEVICE void merge(const WideWeighted& other) {
    loss = loss + other.loss;
    weight = weight + other.weight;
  }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(WideWeighted<Scalar>& result) const {
    result.merge({sum_of_lanes(loss), sum_of_lanes(weight)});
  }
};

}  // namespace torchnotes
