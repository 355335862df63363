// The row operations (row_shape.h) of cross-entropy.
#pragma once

#include <type_traits>

#include "formulas/cross_entropy.h"
#include "formulas/weighted.h"
#include "row_shape.h"

namespace torchnotes {
namespace {

// The targets of the rows: class indices, or none if the targets are class probabilities. If the logits are a shard of
// the classes, the normalizer comes from all shards, and a target may lie in another shard.
template <class acc_t>
struct Targets {
  const int64_t* index;
  const acc_t* weight;
  int64_t classes, ignore_index;
  acc_t target_share;  // 1 - eps
  bool sharded;

  C10_HOST_DEVICE bool counts(int64_t row) const { return !index || index[row] != ignore_index; }
  C10_HOST_DEVICE bool has_class(int64_t row) const {
    return index && counts(row) && index[row] >= 0 && index[row] < classes;
  }
  // The weight of a row in the mean. An invalid class that was not refused before makes the row NaN.
  C10_HOST_DEVICE acc_t weight_of(int64_t row) const {
    if (!index || !counts(row)) {
      return counts(row) ? acc_t(1) : acc_t(0);
    }
    if (!has_class(row)) {
      return sharded ? acc_t(0) : acc_t(NAN);
    }
    return weight ? weight[index[row]] : acc_t(1);
  }
  // a_t
  C10_HOST_DEVICE acc_t mass(int64_t row) const { return index ? target_share * weight_of(row) : acc_t(0); }

  template <class scalar_t>
  C10_HOST_DEVICE acc_t at(const RowOperand<const scalar_t>& x, int64_t row) const {
    return has_class(row) ? static_cast<acc_t>(x.strided_row(row)[index[row] * x.interleaved]) : acc_t(0);
  }
};

// What every pass over the rows knows. a = slope q + shift is the target mass that the operand q contributes.
template <class acc_t, class scalar_t, bool capped>
struct CrossEntropyRows {
  Targets<acc_t> targets;
  RowOperand<const scalar_t> x;
  Softcap<capped> softcap;
  double z;
  acc_t slope, shift;
  acc_t* statistics;  // per row: its normalizer and, with an operand or for a shard, m
  int64_t columns;

  template <class T>
  C10_HOST_DEVICE T mass(T q) const {
    return fma(T(slope), q, T(shift));
  }
  C10_HOST_DEVICE Normalizer<acc_t> normalizer_of(int64_t row) const {
    return {statistics[row * columns], statistics[row * columns + 1]};
  }
  C10_HOST_DEVICE acc_t mass_of(int64_t row) const {
    return columns == 3 ? statistics[row * columns + 2] : targets.mass(row);
  }
};

template <class acc_t, class scalar_t, bool capped, bool with_operand>
struct CrossEntropyLoss : CrossEntropyRows<acc_t, scalar_t, capped> {
  acc_t* loss;
  acc_t* weight;

  template <class T>
  using State = std::conditional_t<with_operand, MassedLogSumExp<T>, LogSumExp<T>>;
  template <class T>
  using StateGivenMax = std::conditional_t<with_operand, MassedLogSumExpGivenMax<T>, LogSumExpGivenMax<T>>;

  template <class T>
  C10_HOST_DEVICE State<T> start(int64_t) const {
    return State<T>::start();
  }
  template <class T>
  Maximum<T> prescan() const {
    return Maximum<T>::start();
  }
  template <class T, class... Q>
  void scan(Maximum<T>& prescan, T x, Q...) const {
    prescan.add(x);
  }
  // Capping preserves the order.
  template <class T>
  StateGivenMax<T> start(int64_t, Maximum<acc_t> max) const {
    return StateGivenMax<T>::start(Maximum<T>{this->softcap(T(max.value))});
  }
  template <class Any, class T, class... Q>
  C10_HOST_DEVICE void add(Any& state, T x, Q... q) const {
    state.add(this->softcap(x), this->mass(q)...);
  }
  C10_HOST_DEVICE void finish(int64_t row, const LogSumExp<acc_t>& all) const { write(row, all, 0, 0); }
  C10_HOST_DEVICE void finish(int64_t row, const MassedLogSumExp<acc_t>& all) const {
    write(row, all.logits, all.mass, all.shifted_sum);
  }

 private:
  C10_HOST_DEVICE void write(int64_t row, const LogSumExp<acc_t>& logits, acc_t mass, acc_t shifted_sum) const {
    const Normalizer<acc_t> of_row = normalizer(logits);
    this->statistics[row * this->columns] = of_row.max;
    this->statistics[row * this->columns + 1] = of_row.inverse;
    if (this->columns == 3) {
      this->statistics[row * this->columns + 2] = mass + this->targets.mass(row);
    }
    const acc_t u_t = this->softcap(this->targets.at(this->x, row));
    const acc_t a_t = this->targets.mass(row);
    const double nll = cross_entropy_of_row(logits.max, logits.sum, mass, shifted_sum, a_t, u_t, this->z);
    loss[row] = this->targets.counts(row) ? static_cast<acc_t>(nll) : acc_t(0);
    weight[row] = this->targets.weight_of(row);
  }
};

// The gradient of the loss of each row: one number times a scale for all rows, or one number per row.
template <class acc_t, class scalar_t>
struct GradientOfLoss {
  const scalar_t* grad;
  int64_t stride;
  const acc_t* scale;
  C10_HOST_DEVICE acc_t operator()(int64_t row) const {
    return static_cast<acc_t>(grad[row * stride]) * (stride == 0 ? *scale : acc_t(1));
  }
};

template <class acc_t, class scalar_t, bool capped>
struct CrossEntropyBackward : CrossEntropyRows<acc_t, scalar_t, capped> {
  GradientOfLoss<acc_t, scalar_t> grad;
  RowOperand<scalar_t> out;
  RowOperand<const acc_t> class_operand;  // the operand, if all rows share it

  C10_HOST_DEVICE CrossEntropyGradient<acc_t> formula(int64_t row) const {
    const Normalizer<acc_t> normalizer = this->normalizer_of(row);
    const acc_t g = this->targets.counts(row) ? grad(row) : acc_t(0);
    const acc_t k = total_mass(normalizer, this->mass_of(row), this->z);
    return {{normalizer.max, g * k * normalizer.inverse}, g, this->targets.at(this->x, row)};
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const CrossEntropyGradient<T>& f, V x) const {
    const V u = this->softcap(x);
    return this->softcap.times_slope(x, f(u));
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const CrossEntropyGradient<T>& f, V x, V q) const {
    const V u = this->softcap(x);
    return this->softcap.times_slope(x, f(u, this->mass(q)));
  }
  C10_HOST_DEVICE void patch_target(int64_t row, const CrossEntropyGradient<acc_t>& f) const {
    if (!this->targets.has_class(row)) {
      return;
    }
    const int64_t t = this->targets.index[row];
    const acc_t q = class_operand.data ? class_operand.data[t] : acc_t(0), u = this->softcap(f.x_t);
    const acc_t a = this->mass(q) + this->targets.mass(row);
    out.strided_row(row)[t * out.interleaved] = static_cast<scalar_t>(this->softcap.times_slope(f.x_t, f(u, a)));
  }
};

template <class acc_t, class scalar_t, bool capped>
struct CrossEntropyHessian : CrossEntropyRows<acc_t, scalar_t, capped> {
  GradientOfLoss<acc_t, scalar_t> grad;
  RowOperand<const scalar_t> v;
  RowOperand<scalar_t> out;
  RowOperand<const acc_t> class_operand;
  scalar_t* along_grad;  // dG.v/dg of each row

  template <class T>
  C10_HOST_DEVICE CrossEntropyProjection<T> start(int64_t row) const {
    const Normalizer<acc_t> normalizer = this->normalizer_of(row);
    return {{T(normalizer.max), T(normalizer.inverse)}, T(0), T(0)};
  }
  template <class T>
  C10_HOST_DEVICE void add(CrossEntropyProjection<T>& state, T x, T v, T q) const {
    state.add(this->softcap(x), this->softcap.times_slope(x, v), this->mass(q));
  }
  template <class T>
  C10_HOST_DEVICE void add(CrossEntropyProjection<T>& state, T x, T v) const {
    state.add(this->softcap(x), this->softcap.times_slope(x, v), T(0));
  }
  C10_HOST_DEVICE CrossEntropyCurvature<acc_t> finish(int64_t row, const CrossEntropyProjection<acc_t>& all) const {
    const bool counts = this->targets.counts(row);
    const acc_t g = counts ? grad(row) : acc_t(0), m = this->mass_of(row);
    const acc_t k = total_mass(all.row, m, this->z);
    const acc_t x_t = this->targets.at(this->x, row), v_t = this->targets.at(v, row);
    const acc_t at_target = this->targets.mass(row) * this->softcap.times_slope(x_t, v_t);
    along_grad[row] = static_cast<scalar_t>(counts ? k * all.dot_p - (all.dot_a + at_target) : acc_t(0));
    const acc_t d = g * (k - static_cast<acc_t>(2 * this->z) * m) * all.dot_p;
    return {all.row.max, g * k * all.row.inverse, d * all.row.inverse, g, x_t, v_t};
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const CrossEntropyCurvature<T>& f, V x, V v) const {
    return of_mass(f, x, v, V(0));
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const CrossEntropyCurvature<T>& f, V x, V v, V q) const {
    return of_mass(f, x, v, this->mass(q));
  }
  C10_HOST_DEVICE void patch_target(int64_t row, const CrossEntropyCurvature<acc_t>& f) const {
    if (!capped || !this->targets.has_class(row)) {
      return;  // without a cap the curvature does not depend on a_t
    }
    const int64_t t = this->targets.index[row];
    const acc_t q = class_operand.data ? class_operand.data[t] : acc_t(0);
    out.strided_row(row)[t * out.interleaved] =
        static_cast<scalar_t>(of_mass(f, f.x_t, f.v_t, this->mass(q) + this->targets.mass(row)));
  }

 private:
  template <class T, class V>
  C10_HOST_DEVICE V of_mass(const CrossEntropyCurvature<T>& f, V x, V v, V a) const {
    const V u = this->softcap(x);
    if constexpr (capped) {
      return f(u, v, a, this->softcap.slope(x), this->softcap.slope_of_slope(x));
    } else {
      return f(u, v);
    }
  }
};

// The sum or the mean of the losses, and the factor of its gradient.
template <class acc_t, class scalar_t>
struct ReduceLosses {
  bool mean, zero_if_empty;
  scalar_t* loss;
  acc_t* scale;

  template <class T>
  C10_HOST_DEVICE WideWeighted<T> start(int64_t) const {
    return {widen(T(0)), widen(T(0))};
  }
  template <class T>
  C10_HOST_DEVICE void add(WideWeighted<T>& state, T loss, T weight) const {
    state.add(loss, weight);
  }
  C10_HOST_DEVICE void finish(int64_t, const WideWeighted<acc_t>& all) const {
    const bool empty = mean && zero_if_empty && all.weight == 0;
    *loss = static_cast<scalar_t>(static_cast<acc_t>(empty ? 0 : mean ? all.loss / all.weight : all.loss));
    *scale = static_cast<acc_t>(empty ? 0 : mean ? 1 / all.weight : 1);
  }
};

}  // namespace
}  // namespace torchnotes
