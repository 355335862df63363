// The softmax of a row x of C logits
//
//   y_k = e^(x_k - lse),    lse = ln sum_j e^(x_j)
//   dy_k/dx_i = y_k (1 - y_k) for i = k, -y_i y_k else
//
// With the gradient g of y and the inner product g.y of the row, the backward needs only the output y:
//
//   backward(g, y)_k = y_k (g_k - g.y)
//
// It is linear and symmetric in g: its derivative by g in direction v is backward(v, y). By y, in direction v, it is v
// (g - g.y) - y g.v, and the transpose of that is v (g - g.y) - g v.y.
//
// lse takes a single pass over the row, with the greatest logit m so far and s = sum e^(x_j - m), so that nothing
// overflows. The next x either lies below m or becomes the new m; either way only one exponential is computed:
//
//   h = max(x, m),  e = e^(min(x, m) - h):     s <- s + e for x <= m,    s <- s e + 1 for x > m;     m <- h
//
// m starts at the lowest finite number (not at -inf, because -inf minus itself is NaN), s at 0. NaN anywhere makes s
// NaN; a row that is all -inf, or contains +inf, has the softmax NaN, as in torch.
//
// If m is known in advance, s is a plain sum.
//
// y_k = e^(x_k - m) / s, with a first factor that is exact to the last place however large the logits are.
#pragma once

#include <limits>

#include "formulas/portable.h"

namespace torchnotes {

template <class T>
struct LogSumExp {
  T max, sum;

  static C10_HOST_DEVICE LogSumExp start() { return {T(-std::numeric_limits<float>::max()), T(0)}; }
  C10_HOST_DEVICE void add(T x) { merge({x, T(1)}); }
  C10_HOST_DEVICE void merge(LogSumExp other) {
    const T high = at_least(other.max, max);
    const T e = exp_nonpositive(at_most(other.max, max) - high);
    const auto rises = other.max > max;
    sum = fma(where(rises, sum, other.sum), e, where(rises, other.sum, sum));
    max = high;
  }
  // Merges the lanes of a SIMD vector with a single exponential.
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(LogSumExp<Scalar>& result) const {
    result.max = max_lane(max);
    result.sum = sum_of_lanes(sum * exp_nonpositive(max - T(result.max)));
  }
};

// The maximum of the logits. It may ignore NaN.
template <class T>
struct Maximum {
  T value;

  static C10_HOST_DEVICE Maximum start() { return {LogSumExp<T>::start().max}; }
  C10_HOST_DEVICE void add(T x) { value = at_least(x, value); }
  C10_HOST_DEVICE void merge(Maximum other) { add(other.value); }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(Maximum<Scalar>& result) const {
    result.value = max_lane(value);
  }
};

// For logits whose maximum is known.
template <class T>
struct LogSumExpGivenMax : LogSumExp<T> {
  using LogSumExp<T>::sum;

  template <class Scalar>
  static C10_HOST_DEVICE LogSumExpGivenMax start(Maximum<Scalar> max) {
    return {{T(max.value), T(0)}};
  }
  C10_HOST_DEVICE void add(T x) { sum = add_exp_nonpositive(sum, x - this->max); }
  C10_HOST_DEVICE void merge(LogSumExpGivenMax other) { sum = sum + other.sum; }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(LogSumExpGivenMax<Scalar>& result) const {
    result.sum = sum_of_lanes(sum);
  }
};

// Turns the logits of a row into probabilities.
template <class T>
struct Normalizer {
  T max, inverse;  // m and 1 / s
  template <class V>
  C10_HOST_DEVICE V softmax(V x) const {
    return exp_nonpositive(x - V(max)) * V(inverse);
  }
};

template <class T>
C10_HOST_DEVICE inline Normalizer<T> normalizer(const LogSumExp<T>& all) {
  const T nan_for_infinity = all.max - all.max;
  return {all.max, T(1) / all.sum + nan_for_infinity};
}

// The g.y of a row.
template <class T>
struct InnerProduct {
  T sum;
  C10_HOST_DEVICE void add(T g, T y) { sum = fma(g, y, sum); }
  C10_HOST_DEVICE void merge(InnerProduct other) { sum = sum + other.sum; }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(InnerProduct<Scalar>& result) const {
    result.sum = sum_of_lanes(sum);
  }
  template <class V>
  C10_HOST_DEVICE V backward(V g, V y) const {
    return y * (g - V(sum));
  }
};

}  // namespace torchnotes
