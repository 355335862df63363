// Operations for testing the row drivers on every device.
#pragma once

#include <limits>

#include "../../csrc/formulas/portable.h"
#include "../../csrc/row_shape.h"

namespace torchnotes {

template <class T>
C10_HOST_DEVICE T max_or_nan(T a, T b) {
  return where(a != a, a, at_least(b, a));
}

// The maximum m and the sum of e^(x - m), which cannot overflow.
template <class T>
struct MaxSum {
  T greatest = T(-std::numeric_limits<float>::infinity());
  T sum = T(0);

  C10_HOST_DEVICE void add(T x) { merge({x, T(1)}); }
  C10_HOST_DEVICE void merge(MaxSum other) {
    const T both = max_or_nan(greatest, other.greatest);
    sum = scaled(both) + other.scaled(both);
    greatest = both;
  }
  // Avoids infinity - infinity.
  C10_HOST_DEVICE T scaled(T m) const { return where(greatest < m, sum * exp_nonpositive(greatest - m), sum); }
};

template <class T>
struct Moments {
  T count = T(0), mean = T(0), squares = T(0);

  C10_HOST_DEVICE void add(T x) { merge({T(1), x, T(0)}); }
  C10_HOST_DEVICE void merge(Moments other) {
    const T n = count + other.count;
    const T share = where(n > T(0), other.count / n, T(0));
    const T apart = other.mean - mean;
    mean = mean + apart * share;
    squares = squares + other.squares + apart * apart * (count * share);
    count = n;
  }
};

// Sums of g and g (x - mean), as in the backward pass of a normalization. The mean is a constant of the row.
template <class T>
struct Projection {
  T sum = T(0), along = T(0);

  C10_HOST_DEVICE void add(T g, T u) {
    sum = sum + g;
    along = along + g * u;
  }
  C10_HOST_DEVICE void merge(Projection other) {
    sum = sum + other.sum;
    along = along + other.along;
  }
};

template <class T>
struct Mean {
  T value;
};

// out = e^(x - m) / sum, minus 1 at the target.
template <class T>
struct SoftmaxOfRow {
  T greatest, sum, at_target;
};

template <class acc_t, class scalar_t>
struct SoftmaxLessTarget {
  RowOperand<const scalar_t> x;
  RowOperand<scalar_t> out;
  const int64_t* target;

  template <class T>
  C10_HOST_DEVICE MaxSum<T> start(int64_t) const {
    return {};
  }
  template <class T>
  C10_HOST_DEVICE void add(MaxSum<T>& state, T x) const {
    state.add(x);
  }
  C10_HOST_DEVICE SoftmaxOfRow<acc_t> finish(int64_t row, MaxSum<acc_t> all) const {
    return {all.greatest, all.sum, static_cast<acc_t>(x.strided_row(row)[target[row] * x.interleaved])};
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const SoftmaxOfRow<T>& of, V x) const {
    return exp_nonpositive(x - V(of.greatest)) / V(of.sum);
  }
  C10_HOST_DEVICE void patch_target(int64_t row, const SoftmaxOfRow<acc_t>& of) const {
    out.strided_row(row)[target[row] * x.interleaved] = static_cast<scalar_t>(value(of, of.at_target) - acc_t(1));
  }
};

template <class acc_t>
struct WriteMaxSum {
  acc_t* greatest;
  acc_t* sum;
  template <class T>
  C10_HOST_DEVICE MaxSum<T> start(int64_t) const {
    return {};
  }
  template <class T>
  C10_HOST_DEVICE void add(MaxSum<T>& state, T x) const {
    state.add(x);
  }
  C10_HOST_DEVICE void finish(int64_t row, MaxSum<acc_t> all) const {
    greatest[row] = all.greatest;
    sum[row] = all.sum;
  }
};

// out = (x - mean) scale[row], where scale stands for 1/std.
template <class T>
struct Centering {
  T mean, scale;
};

template <class acc_t>
struct Center {
  acc_t* mean;
  acc_t* variance;
  const acc_t* scale;
  template <class T>
  C10_HOST_DEVICE Moments<T> start(int64_t) const {
    return {};
  }
  template <class T>
  C10_HOST_DEVICE void add(Moments<T>& state, T x) const {
    state.add(x);
  }
  C10_HOST_DEVICE Centering<acc_t> finish(int64_t row, Moments<acc_t> all) const {
    mean[row] = all.mean;
    variance[row] = all.squares / all.count;
    return {all.mean, scale[row]};
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const Centering<T>& of, V x) const {
    return (x - V(of.mean)) * V(of.scale);
  }
};

template <class acc_t>
struct Project {
  const acc_t* mean;
  acc_t* sum;
  acc_t* along;
  C10_HOST_DEVICE Mean<acc_t> row_constants(int64_t row) const { return {mean[row]}; }
  template <class T>
  C10_HOST_DEVICE Projection<T> start(int64_t) const {
    return {};
  }
  template <class T, class Constant>
  C10_HOST_DEVICE void add(Projection<T>& state, const Mean<Constant>& mean, T g, T x) const {
    state.add(g, x - T(mean.value));
  }
  C10_HOST_DEVICE void finish(int64_t row, Projection<acc_t> all) const {
    sum[row] = all.sum;
    along[row] = all.along;
  }
};

// out = a x w, with one a per row and one w per element.
template <class T>
struct Factor {
  T a;
};

template <class acc_t>
struct Scale {
  const acc_t* a;
  C10_HOST_DEVICE Factor<acc_t> formula(int64_t row) const { return {a[row]}; }
  template <class T, class V>
  C10_HOST_DEVICE V value(const Factor<T>& of, V x, V w) const {
    return V(of.a) * x * w;
  }
};

}  // namespace torchnotes
