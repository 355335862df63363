// The logarithm of the softmax (softmax.h) of a row x
//
//   y_k = x_k - lse
//   dy_k/dx_i = [i = k] - e^(y_i)
//
// With the gradient g of y and its sum over the row, the backward needs only the output y:
//
//   backward(g, y)_k = g_k - e^(y_k) sum_i g_i
//
// It is linear in g; its derivative by y, in direction v, is -e^(y_k) v_k sum_i g_i.
//
// lse = m + ln s is stored as the sum of two numbers, high + low: a single rounded number would be off by 5e-4 for
// logits of 1e4.
#pragma once

#include "formulas/softmax.h"

namespace torchnotes {

template <class T>
struct Lse {
  T high, low;
  template <class V>
  C10_HOST_DEVICE V log_softmax(V x) const {
    return (x - V(high)) - V(low);
  }
};

// The lse of a row. The sum of m and ln s is split without error.
template <class T>
C10_HOST_DEVICE inline Lse<T> lse(const LogSumExp<T>& all) {
  const Wide<T> m = widen(all.max), l = wide_log(all.sum) + (m - m);
  const Wide<T> sum = m + l, back = sum - m, rest = (m - (sum - back)) + (l - back);
  const T high = narrow<T>(sum);
  return {high, narrow<T>((sum - widen(high)) + rest)};
}

// The sum of g over the row.
template <class T>
struct SumOfGradient {
  T sum;
  C10_HOST_DEVICE void add(T g, T) { sum = sum + g; }
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
