// The logarithm of the softmax (softmax.h) of a row x
//
//   y_k = x_k - lse
//   dy_k/dx_i = [i = k] - e^(y_i)
//
// so that, by the output y alone, with the gradient g of y and its sum over the row,
//
//   backward(g, y)_k = g_k - e^(y_k) sum_i g_i
//
// It is linear in g; by y, in direction v, its derivative is -e^(y_k) v_k sum_i g_i.
#pragma once

#include "softmax.h"

namespace torchnotes {

// The row's sum of g.
template <class T>
struct SumOfGradient {
  T sum;
  C10_HOST_DEVICE void add(T g) { sum = sum + g; }
  C10_HOST_DEVICE void merge(SumOfGradient other) { sum = sum + other.sum; }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(SumOfGradient<Scalar>& result) const {
    result.sum = sum_of_lanes(sum);
  }
  template <class V>
  C10_HOST_DEVICE V backward(V g, V y) const {
    return fma(V(0) - exp_nonpositive(y), V(sum), g);
  }
};

}  // namespace torchnotes
