// Operations for testing the traversals of rows and columns on every device.
#pragma once

#include <limits>

#include "formulas/portable.h"
#include "loops/row_shape.h"

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
struct Greatest {
  T value = MaxSum<T>().greatest;

  C10_HOST_DEVICE void add(T x) { value = max_or_nan(value, x); }
  C10_HOST_DEVICE void merge(Greatest other) { add(other.value); }
};

template <class T>
struct MaxSumGivenMax : MaxSum<T> {
  C10_HOST_DEVICE void add(T x) {
    this->sum = this->sum + where(x < this->greatest, exp_nonpositive(x - this->greatest), T(1));
  }
  C10_HOST_DEVICE void merge(MaxSumGivenMax other) { this->sum = this->sum + other.sum; }
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
struct FewTerms {
  T sum;
  C10_HOST_DEVICE void add(T x) { sum = sum + x; }
  C10_HOST_DEVICE void merge(FewTerms other) { sum = sum + other.sum; }
};

// A sum in double precision.
template <class T>
struct WideSum {
  using Number = double;
  Wide<T> sum;

  C10_HOST_DEVICE void add(T x) { sum = sum + widen(x); }
  C10_HOST_DEVICE void merge(const WideSum& other) { sum = sum + other.sum; }
  C10_HOST_DEVICE void merge(const FewTerms<T>& few) { add(few.sum); }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(WideSum<Scalar>& result) const {
    result.sum = result.sum + sum_of_lanes(sum);
  }
};

template <class T>
struct Mean {
  T value;
};

struct AddMaxSum {
  template <class T>
  C10_HOST_DEVICE MaxSum<T> start(int64_t) const {
    return {};
  }
  template <class State, class T>
  C10_HOST_DEVICE void add(State& state, T x) const {
    state.add(x);
  }
};

struct AddMaxSumAfterPrescan : AddMaxSum {
  using AddMaxSum::start;

  template <class T>
  Greatest<T> prescan() const {
    return {};
  }
  template <class T>
  void scan(Greatest<T>& prescan, T x) const {
    prescan.add(x);
  }
  template <class T, class Scalar>
  MaxSumGivenMax<T> start(int64_t, Greatest<Scalar> greatest) const {
    return {{T(greatest.value), T(0)}};
  }
};

template <class T, class Add>
struct WriteMaxSum : Add {
  T* greatest;
  T* sum;

  C10_HOST_DEVICE void finish(int64_t row, const MaxSum<T>& all) const {
    greatest[row] = all.greatest;
    sum[row] = all.sum;
  }
};

// out = e^(x - m) / sum, minus 1 at the target.
template <class T>
struct SoftmaxOfRow {
  T greatest, sum, at_target;
};

template <class T, class Add>
struct SoftmaxLessTarget : Add {
  RowOperand x, out;
  const int64_t* target;

  C10_HOST_DEVICE SoftmaxOfRow<T> finish(int64_t row, const MaxSum<T>& all) const {
    return {all.greatest, all.sum, x.read<T>(row, target[row])};
  }
  template <class V>
  C10_HOST_DEVICE V value(const auto& of, V x) const {
    return exp_nonpositive(x - V(of.greatest)) / V(of.sum);
  }
  C10_HOST_DEVICE void patch_target(int64_t row, const SoftmaxOfRow<T>& of) const {
    out.write(row, target[row], value(of, of.at_target) - T(1));
  }
};

// out = (x - mean) scale[row], where scale stands for 1/std.
template <class T>
struct Centering {
  T mean, scale;
};

template <class T>
struct Center {
  T* mean;
  T* variance;
  const T* scale;

  template <class V>
  C10_HOST_DEVICE Moments<V> start(int64_t) const {
    return {};
  }
  template <class V>
  C10_HOST_DEVICE void add(Moments<V>& state, V x) const {
    state.add(x);
  }
  C10_HOST_DEVICE Centering<T> finish(int64_t row, const Moments<T>& all) const {
    mean[row] = all.mean;
    variance[row] = all.squares / all.count;
    return {all.mean, scale[row]};
  }
  template <class V>
  C10_HOST_DEVICE V value(const auto& of, V x) const {
    return (x - V(of.mean)) * V(of.scale);
  }
};

template <class T>
struct Project {
  const T* mean;
  T* sum;
  T* along;

  C10_HOST_DEVICE Mean<T> row_constants(int64_t row) const { return {mean[row]}; }
  template <class V>
  C10_HOST_DEVICE Projection<V> start(int64_t) const {
    return {};
  }
  template <class V>
  C10_HOST_DEVICE void add(Projection<V>& state, const auto& mean, V g, V x) const {
    state.add(g, x - V(mean.value));
  }
  C10_HOST_DEVICE void finish(int64_t row, const Projection<T>& all) const {
    sum[row] = all.sum;
    along[row] = all.along;
  }
};

// out = a x w, with one a per row and one w per element.
template <class T>
struct Factor {
  T a;
};

template <class T>
struct Scale {
  static constexpr bool kMixesTypes = true;
  const T* a;

  C10_HOST_DEVICE Factor<T> formula(int64_t row) const { return {a[row]}; }
  template <class V>
  C10_HOST_DEVICE V value(const auto& of, V x, V w) const {
    return V(of.a) * x * w;
  }
};

// out = w (u - c v), where u = x - mean and c is the mean of u v w.
template <class T>
struct Removal {
  T mean, c;
};

template <class T>
struct Remove {
  static constexpr bool kMixesTypes = true;
  const T* mean;
  double inverse_n;

  C10_HOST_DEVICE Mean<T> row_constants(int64_t row) const { return {mean[row]}; }
  template <class V>
  C10_HOST_DEVICE WideSum<V> start(int64_t) const {
    return {widen(V(0))};
  }
  template <class V>
  FewTerms<V> partial() const {
    return {V(0)};
  }
  template <class V>
  C10_HOST_DEVICE void add(auto& sum, const auto& mean, V x, V v, V w) const {
    sum.add((x - V(mean.value)) * v * w);
  }
  C10_HOST_DEVICE Removal<T> finish(int64_t row, const WideSum<T>& all) const {
    return {mean[row], static_cast<T>(all.sum * inverse_n)};
  }
  template <class V>
  C10_HOST_DEVICE V value(const auto& of, V x, V v, V w) const {
    return w * ((x - V(of.mean)) - V(of.c) * v);
  }
};

}  // namespace torchnotes
