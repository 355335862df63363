// Included by the kernels of either device, after its row driver.
#pragma once

#include "../formulas/cross_entropy.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "../check_classes.h"
#include "../class_rows.h"
#include "../formulas/weighted.h"
#include "../operands.h"

namespace torchnotes {
namespace {

using at::Tensor;

// The targets of rows: classes, or none where the target is a probability for each class.
template <class acc_t>
struct Targets {
  const int64_t* index;
  const acc_t* weight;
  int64_t classes, ignore_index;
  acc_t share;  // 1 - eps

  C10_HOST_DEVICE bool counts(int64_t row) const { return !index || index[row] != ignore_index; }
  C10_HOST_DEVICE bool has_class(int64_t row) const {
    return index && counts(row) && index[row] >= 0 && index[row] < classes;
  }
  // What the row counts for in a mean. A class that there is not makes the row NaN, where it has not been refused.
  C10_HOST_DEVICE acc_t weight_of(int64_t row) const {
    if (!index || !counts(row)) {
      return counts(row) ? acc_t(1) : acc_t(0);
    }
    return !has_class(row) ? acc_t(NAN) : weight ? weight[index[row]] : acc_t(1);
  }
  // a_t
  C10_HOST_DEVICE acc_t mass(int64_t row) const { return index ? share * weight_of(row) : acc_t(0); }

  template <class scalar_t>
  C10_HOST_DEVICE acc_t at(const RowOperand<const scalar_t>& x, int64_t row) const {
    return has_class(row) ? static_cast<acc_t>(x.among_others(row)[index[row] * x.interleaved]) : acc_t(0);
  }
};

// What every pass over the rows knows. a = slope q + shift is what the operand q makes of the target mass.
template <class acc_t, class scalar_t, bool capped>
struct CrossEntropyRows {
  Targets<acc_t> targets;
  RowOperand<const scalar_t> x;
  Softcap<capped> softcap;
  double z;
  acc_t slope, shift;
  acc_t* statistics;  // of each row: its normaliser, and with an operand m
  int64_t columns;

  template <class T>
  C10_HOST_DEVICE T mass(T q) const {
    return fma(T(slope), q, T(shift));
  }
  C10_HOST_DEVICE Normaliser<acc_t> normaliser_of(int64_t row) const {
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
  using StateBelow = std::conditional_t<with_operand, MassedLogSumExpBelow<T>, LogSumExpBelow<T>>;

  template <class T>
  C10_HOST_DEVICE State<T> start(int64_t) const {
    return State<T>::start();
  }
  template <class T>
  Greatest<T> survey() const {
    return Greatest<T>::start();
  }
  template <class T, class... Q>
  void look(Greatest<T>& survey, T x, Q...) const {
    survey.add(x);
  }
  // The cap is monotonous.
  template <class T>
  StateBelow<T> start(int64_t, Greatest<acc_t> known) const {
    return StateBelow<T>::start(Greatest<T>{this->softcap(T(known.value))});
  }
  template <class Any, class T, class... Q>
  C10_HOST_DEVICE void add(Any& state, T x, Q... q) const {
    state.add(this->softcap(x), this->mass(q)...);
  }
  C10_HOST_DEVICE void finish(int64_t row, const LogSumExp<acc_t>& all) const { write(row, all, 0, 0); }
  C10_HOST_DEVICE void finish(int64_t row, const MassedLogSumExp<acc_t>& all) const {
    this->statistics[row * this->columns + 2] = all.mass + this->targets.mass(row);
    write(row, all.logits, all.mass, all.along);
  }

 private:
  C10_HOST_DEVICE void write(int64_t row, const LogSumExp<acc_t>& logits, acc_t mass, acc_t along) const {
    const Normaliser<acc_t> of_row = normaliser(logits);
    this->statistics[row * this->columns] = of_row.greatest;
    this->statistics[row * this->columns + 1] = of_row.inverse;
    const acc_t u_t = this->softcap(this->targets.at(this->x, row));
    const acc_t a_t = this->targets.mass(row);
    const double nll = cross_entropy_of_row(logits.greatest, logits.sum, mass, along, a_t, u_t, this->z);
    loss[row] = this->targets.counts(row) ? static_cast<acc_t>(nll) : acc_t(0);
    weight[row] = this->targets.weight_of(row);
  }
};

// The gradient of the loss of each row: of all the same number times a scale, or of each its own.
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
  RowOperand<const acc_t> of_classes;  // the operand, where it serves all rows

  C10_HOST_DEVICE CrossEntropyGradient<acc_t> of(int64_t row) const {
    const Normaliser<acc_t> kept = this->normaliser_of(row);
    const acc_t g = this->targets.counts(row) ? grad(row) : acc_t(0);
    const acc_t k = total_mass(kept, this->mass_of(row), this->z);
    return {{kept.greatest, g * k * kept.inverse}, g, this->targets.at(this->x, row)};
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const CrossEntropyGradient<T>& f, V x) const {
    const V u = this->softcap(x);
    return this->softcap.times_slope(u, f(u));
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const CrossEntropyGradient<T>& f, V x, V q) const {
    const V u = this->softcap(x);
    return this->softcap.times_slope(u, f(u, this->mass(q)));
  }
  C10_HOST_DEVICE void amend(int64_t row, const CrossEntropyGradient<acc_t>& f) const {
    if (!this->targets.has_class(row)) {
      return;
    }
    const int64_t t = this->targets.index[row];
    const acc_t q = of_classes.data ? of_classes.data[t] : acc_t(0), u = this->softcap(f.x_t);
    const acc_t a = this->mass(q) + this->targets.mass(row);
    out.among_others(row)[t * out.interleaved] = static_cast<scalar_t>(this->softcap.times_slope(u, f(u, a)));
  }
};

template <class acc_t, class scalar_t, bool capped>
struct CrossEntropyHessian : CrossEntropyRows<acc_t, scalar_t, capped> {
  GradientOfLoss<acc_t, scalar_t> grad;
  RowOperand<const scalar_t> v;
  RowOperand<scalar_t> out;
  RowOperand<const acc_t> of_classes;
  scalar_t* along_grad;  // dG.v/dg of each row

  template <class T>
  C10_HOST_DEVICE CrossEntropyProjection<T> start(int64_t row) const {
    const Normaliser<acc_t> kept = this->normaliser_of(row);
    return {{T(kept.greatest), T(kept.inverse)}, T(0), T(0)};
  }
  template <class T>
  C10_HOST_DEVICE void add(CrossEntropyProjection<T>& state, T x, T v, T q) const {
    const T u = this->softcap(x);
    state.add(u, this->softcap.times_slope(u, v), this->mass(q));
  }
  template <class T>
  C10_HOST_DEVICE void add(CrossEntropyProjection<T>& state, T x, T v) const {
    const T u = this->softcap(x);
    state.add(u, this->softcap.times_slope(u, v), T(0));
  }
  C10_HOST_DEVICE CrossEntropyCurvature<acc_t> finish(int64_t row, const CrossEntropyProjection<acc_t>& all) const {
    const bool counts = this->targets.counts(row);
    const acc_t g = counts ? grad(row) : acc_t(0), m = this->mass_of(row);
    const acc_t k = total_mass(all.row, m, this->z);
    const acc_t x_t = this->targets.at(this->x, row), v_t = this->targets.at(v, row);
    const acc_t at_target = this->targets.mass(row) * this->softcap.times_slope(this->softcap(x_t), v_t);
    along_grad[row] = static_cast<scalar_t>(counts ? k * all.on_p - (all.on_a + at_target) : acc_t(0));
    const acc_t d = g * (k - static_cast<acc_t>(2 * this->z) * m) * all.on_p;
    return {all.row, g * k, d, g, x_t, v_t};
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const CrossEntropyCurvature<T>& f, V x, V v) const {
    return of_mass(f, x, v, V(0));
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const CrossEntropyCurvature<T>& f, V x, V v, V q) const {
    return of_mass(f, x, v, this->mass(q));
  }
  C10_HOST_DEVICE void amend(int64_t row, const CrossEntropyCurvature<acc_t>& f) const {
    if (!capped || !this->targets.has_class(row)) {
      return;  // without a cap a_t has no part in the curvature
    }
    const int64_t t = this->targets.index[row];
    const acc_t q = of_classes.data ? of_classes.data[t] : acc_t(0);
    out.among_others(row)[t * out.interleaved] =
        static_cast<scalar_t>(of_mass(f, f.x_t, f.v_t, this->mass(q) + this->targets.mass(row)));
  }

 private:
  template <class T, class V>
  C10_HOST_DEVICE V of_mass(const CrossEntropyCurvature<T>& f, V x, V v, V a) const {
    const V u = this->softcap(x);
    if constexpr (capped) {
      return f(u, v, a, this->softcap.slope(u), this->softcap.slope_of_slope(u));
    } else {
      return f(u, v);
    }
  }
};

// The sum of the losses, or their mean, and what the gradient of that is multiplied by.
template <class acc_t, class scalar_t>
struct ReduceLosses {
  bool mean, zero_if_empty;
  scalar_t* loss;
  acc_t* scale;

  template <class T>
  C10_HOST_DEVICE Weighted<T> start(int64_t) const {
    return {T(0), T(0)};
  }
  template <class T>
  C10_HOST_DEVICE void add(Weighted<T>& state, T loss, T weight) const {
    state.merge({loss, weight});
  }
  C10_HOST_DEVICE void finish(int64_t, const Weighted<acc_t>& all) const {
    const bool empty = mean && zero_if_empty && all.weight == 0;
    *loss = static_cast<scalar_t>(empty ? acc_t(0) : mean ? all.loss / all.weight : all.loss);
    *scale = empty ? acc_t(0) : mean ? acc_t(1) / all.weight : acc_t(1);
  }
};

// The arguments of the operators, checked and laid out.
class CrossEntropyProblem {
 public:
  CrossEntropyProblem(
      const Tensor& input,
      const Tensor& target,
      const std::optional<Tensor>& weight,
      int64_t ignore_index,
      double label_smoothing,
      double z_loss,
      double logit_softcap
  )
      : rows((check_classes(input, target, weight, ignore_index, label_smoothing), class_rows(input, input.dim() > 1))),
        softcap(logit_softcap),
        ignore_index_(ignore_index),
        z_(z_loss),
        share_(1 - label_smoothing) {
    const auto statistic = at::toOpMathType(input.scalar_type());
    const int64_t classes = rows.shape.length;
    if (weight && weight->defined()) {
      weight_ = weight->to(statistic).contiguous();
    }
    const double uniform = label_smoothing / static_cast<double>(std::max<int64_t>(classes, 1));
    if (has_probabilities(input, target)) {
      operand_ = rows.alike(target.to(input.scalar_type()));
      slope_ = share_;
      shift_ = uniform;
      if (weight_.defined()) {
        std::vector<int64_t> per_class(input.dim(), 1);
        per_class[rows.dim] = classes;
        operand_ = rows.alike((target.to(statistic) * share_ + uniform) * weight_.view(per_class));
        slope_ = 1;
        shift_ = 0;
      }
    } else {
      index_ = target.to(at::kLong).contiguous();
      if (label_smoothing > 0) {
        operand_ = weight_.defined() ? weight_ : at::ones({classes}, input.options().dtype(statistic));
        slope_ = uniform;
      }
    }
  }

  // Where statistics of rows go, and where tensors laid out as the input do.
  Tensor per_row(at::IntArrayRef shape) const {
    return at::empty(shape, rows.dense.options().dtype(at::toOpMathType(rows.dense.scalar_type())));
  }
  Tensor empty_statistics() const { return per_row({rows.shape.rows, columns()}); }
  Tensor checked_statistics(const Tensor& statistics) const {
    const auto dtype = at::toOpMathType(rows.dense.scalar_type());
    TORCH_CHECK(
        statistics.dim() == 2 && statistics.size(0) == rows.shape.rows && statistics.size(1) == columns() &&
            statistics.scalar_type() == dtype,
        "torchnotes: expected statistics of size ",
        at::IntArrayRef({rows.shape.rows, columns()}),
        " and dtype ",
        dtype,
        ", got ",
        statistics.sizes(),
        " and ",
        statistics.scalar_type()
    );
    return statistics.contiguous();
  }
  Tensor empty_gradient(const Tensor& input) const { return empty_like_dense(rows.moved ? input : rows.dense); }

  template <class acc_t, class scalar_t, bool capped>
  CrossEntropyRows<acc_t, scalar_t, capped> known(const Tensor& statistics) const {
    return {
        {index_.defined() ? index_.const_data_ptr<int64_t>() : nullptr,
         weight_.defined() ? weight_.const_data_ptr<acc_t>() : nullptr,
         rows.shape.length,
         ignore_index_,
         static_cast<acc_t>(share_)},
        rows.shape.each(rows.dense.const_data_ptr<scalar_t>()),
        {softcap},
        z_,
        static_cast<acc_t>(slope_),
        static_cast<acc_t>(shift_),
        const_cast<acc_t*>(statistics.const_data_ptr<acc_t>()),
        columns(),
    };
  }

  template <class acc_t>
  RowOperand<const acc_t> of_classes() const {
    return rows.shape.shared(shares_operand() ? operand_.const_data_ptr<acc_t>() : nullptr);
  }

  // Calls f(operand) or, without one, f().
  template <class acc_t, class scalar_t, class F>
  void with_operand(const F& f) const {
    if (!operand_.defined()) {
      f();
    } else if (shares_operand()) {
      f(of_classes<acc_t>());
    } else if (operand_.scalar_type() == rows.dense.scalar_type()) {
      f(rows.shape.each(operand_.const_data_ptr<scalar_t>()));
    } else {
      f(rows.shape.each(operand_.const_data_ptr<acc_t>()));
    }
  }

  ClassRows rows;
  double softcap;

 private:
  bool shares_operand() const { return operand_.defined() && index_.defined(); }
  int64_t columns() const { return operand_.defined() ? 3 : 2; }

  Tensor index_, weight_, operand_;
  int64_t ignore_index_;
  double z_;
  double share_, slope_ = 0, shift_ = 0;
};

// Calls f with values of the types of the data and of statistics, and whether there is a cap.
template <class F>
void with_types(const Tensor& x, double logit_softcap, const F& f) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "torchnotes::cross_entropy", [&] {
    const at::opmath_type<scalar_t> statistic(0);
    if (logit_softcap == 0) {
      f(scalar_t(), statistic, std::false_type());
    } else {
      f(scalar_t(), statistic, std::true_type());
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy(
    const Tensor& input,
    const Tensor& target,
    const std::optional<Tensor>& weight,
    int64_t reduction,
    int64_t ignore_index,
    double label_smoothing,
    double z_loss,
    double logit_softcap,
    bool zero_if_empty
) {
  const CrossEntropyProblem problem(input, target, weight, ignore_index, label_smoothing, z_loss, logit_softcap);
  const RowShape& shape = problem.rows.shape;
  const Tensor statistics = problem.empty_statistics(), scale = problem.per_row({});
  const Tensor losses_of_rows = problem.per_row(shape_of_losses(input)), weights_of_rows = problem.per_row(shape.rows);
  Tensor loss;
  with_types(input, logit_softcap, [&](auto zero, auto acc_zero, auto capped) {
    using scalar_t = decltype(zero);
    using acc_t = decltype(acc_zero);
    acc_t* const losses = losses_of_rows.mutable_data_ptr<acc_t>();
    acc_t* const weights = weights_of_rows.mutable_data_ptr<acc_t>();
    problem.with_operand<acc_t, scalar_t>([&](const auto&... operand) {
      const CrossEntropyLoss<acc_t, scalar_t, capped(), sizeof...(operand) == 1> op{
          problem.known<acc_t, scalar_t, capped()>(statistics), losses, weights
      };
      reduce_rows(input.device(), shape, op, op.x, operand...);
    });
    if (reduction == at::Reduction::None) {
      loss = losses_of_rows.to(input.scalar_type());
      return;
    }
    loss = at::empty({}, input.options());
    const ReduceLosses<acc_t, scalar_t> op{
        reduction == at::Reduction::Mean,
        zero_if_empty,
        loss.mutable_data_ptr<scalar_t>(),
        scale.mutable_data_ptr<acc_t>()
    };
    const RowShape all{1, 1, shape.rows};
    const acc_t *l = losses, *w = weights;
    reduce_rows(input.device(), all, op, all.each(l), all.each(w));
  });
  return {loss, statistics, scale};
}

template <class acc_t, class scalar_t>
GradientOfLoss<acc_t, scalar_t> gradient_of_loss(const Tensor& grad, const std::optional<Tensor>& scale) {
  return {grad.const_data_ptr<scalar_t>(), grad.dim() == 0 ? 0 : 1, scale ? scale->const_data_ptr<acc_t>() : nullptr};
}

// The gradient of every row into `out`, which lies as the logits and may be them.
void write_gradient(
    const CrossEntropyProblem& problem,
    const Tensor& grad,
    const Tensor& given_statistics,
    const std::optional<Tensor>& scale,
    int64_t reduction,
    const Tensor& out
) {
  const RowShape& shape = problem.rows.shape;
  const Tensor statistics = problem.checked_statistics(given_statistics);
  const Tensor per_row = reduction == at::Reduction::None ? grad.reshape({-1}).contiguous() : grad.reshape({});
  TORCH_CHECK(
      reduction == at::Reduction::None ? per_row.numel() == shape.rows : scale.has_value(),
      "torchnotes: a gradient is needed for every row, or one gradient and the scale"
  );
  with_types(out, problem.softcap, [&](auto zero, auto acc_zero, auto capped) {
    using scalar_t = decltype(zero);
    using acc_t = decltype(acc_zero);
    const CrossEntropyBackward<acc_t, scalar_t, capped()> op{
        problem.known<acc_t, scalar_t, capped()>(statistics),
        gradient_of_loss<acc_t, scalar_t>(per_row, scale),
        shape.each(out.mutable_data_ptr<scalar_t>()),
        problem.of_classes<acc_t>(),
    };
    problem.with_operand<acc_t, scalar_t>([&](const auto&... operand) {
      map_rows(out.device(), shape, op, op.out, op.x, operand...);
    });
  });
}

Tensor cross_entropy_backward(
    const Tensor& grad,
    const Tensor& input,
    const Tensor& target,
    const std::optional<Tensor>& weight,
    const Tensor& statistics,
    const std::optional<Tensor>& scale,
    int64_t reduction,
    int64_t ignore_index,
    double label_smoothing,
    double z_loss,
    double logit_softcap
) {
  const CrossEntropyProblem problem(input, target, weight, ignore_index, label_smoothing, z_loss, logit_softcap);
  const Tensor out = problem.empty_gradient(input);
  write_gradient(problem, grad, statistics, scale, reduction, out);
  return out;
}

void cross_entropy_backward_(
    const Tensor& grad,
    Tensor& input,
    const Tensor& target,
    const std::optional<Tensor>& weight,
    const Tensor& statistics,
    const std::optional<Tensor>& scale,
    int64_t reduction,
    int64_t ignore_index,
    double label_smoothing,
    double z_loss,
    double logit_softcap
) {
  const CrossEntropyProblem problem(input, target, weight, ignore_index, label_smoothing, z_loss, logit_softcap);
  const bool copied = !problem.rows.dense.is_alias_of(input);
  const Tensor out = copied ? problem.rows.dense : input;
  write_gradient(problem, grad, statistics, scale, reduction, out);
  if (copied) {
    input.copy_(out);
  }
}

// (dG.v/dg of each row, H v), G being the gradient of the losses of the rows by g, not reduced.
std::tuple<Tensor, Tensor> cross_entropy_curvature(
    const Tensor& tangent,
    const Tensor& grad,
    const Tensor& input,
    const Tensor& target,
    const std::optional<Tensor>& weight,
    const Tensor& given_statistics,
    int64_t ignore_index,
    double label_smoothing,
    double z_loss,
    double logit_softcap
) {
  check_same(tangent, input);
  const CrossEntropyProblem problem(input, target, weight, ignore_index, label_smoothing, z_loss, logit_softcap);
  const RowShape& shape = problem.rows.shape;
  const Tensor statistics = problem.checked_statistics(given_statistics);
  const Tensor v = problem.rows.alike(tangent), per_row = grad.reshape({-1}).contiguous();
  TORCH_CHECK(per_row.numel() == shape.rows, "torchnotes: one gradient is needed per row");
  const Tensor along_grad = at::empty(shape_of_losses(input), per_row.options());
  const Tensor out = problem.empty_gradient(input);
  with_types(input, logit_softcap, [&](auto zero, auto acc_zero, auto capped) {
    using scalar_t = decltype(zero);
    using acc_t = decltype(acc_zero);
    const CrossEntropyHessian<acc_t, scalar_t, capped()> op{
        problem.known<acc_t, scalar_t, capped()>(statistics),
        {per_row.const_data_ptr<scalar_t>(), 1, nullptr},
        shape.each(v.const_data_ptr<scalar_t>()),
        shape.each(out.mutable_data_ptr<scalar_t>()),
        problem.of_classes<acc_t>(),
        along_grad.mutable_data_ptr<scalar_t>(),
    };
    problem.with_operand<acc_t, scalar_t>([&](const auto&... operand) {
      transform_rows(input.device(), shape, op, op.out, op.x, op.v, operand...);
    });
  });
  return {along_grad, out};
}

}  // namespace
}  // namespace torchnotes

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  m.impl("cross_entropy", torchnotes::cross_entropy);
  m.impl("cross_entropy_backward", cross_entropy_backward);
  m.impl("cross_entropy_backward_", cross_entropy_backward_);
  m.impl("cross_entropy_curvature", cross_entropy_curvature);
}
