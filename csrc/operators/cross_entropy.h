// Included by the kernels of either device, after its row driver.
#pragma once

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
#include "../cross_entropy_rows.h"
#include "../operands.h"

namespace torchnotes {
namespace {

using at::Tensor;

// The arguments of the operators, checked and in matching layouts.
class CrossEntropyProblem {
 public:
  CrossEntropyProblem(
      const Tensor& input,
      const Tensor& target,
      const std::optional<Tensor>& weight,
      int64_t ignore_index,
      double label_smoothing,
      double z_loss,
      double logit_softcap,
      int64_t classes_of_all = 0  // if the logits are a shard of the classes
  )
      : rows(
            (check_classes(input, target, weight, ignore_index, label_smoothing, classes_of_all > 0),
             class_rows(input, input.dim() > 1))
        ),
        softcap(logit_softcap),
        sharded(classes_of_all > 0),
        ignore_index_(ignore_index),
        z_(z_loss),
        target_share_(1 - label_smoothing) {
    const auto statistic = at::toOpMathType(input.scalar_type());
    const int64_t classes = rows.shape.length;
    if (weight && weight->defined()) {
      weight_ = weight->to(statistic).contiguous();
    }
    const double uniform =
        label_smoothing / static_cast<double>(std::max<int64_t>(sharded ? classes_of_all : classes, 1));
    if (has_probabilities(input, target)) {
      operand_ = rows.to_layout(target.to(input.scalar_type()));
      slope_ = target_share_;
      shift_ = uniform;
      if (weight_.defined()) {
        std::vector<int64_t> per_class(input.dim(), 1);
        per_class[rows.dim] = classes;
        operand_ = rows.to_layout((target.to(statistic) * target_share_ + uniform) * weight_.view(per_class));
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

  // An uninitialized tensor for statistics of rows.
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
  CrossEntropyRows<acc_t, scalar_t, capped> row_data(const Tensor& statistics) const {
    return {
        {index_.defined() ? index_.const_data_ptr<int64_t>() : nullptr,
         weight_.defined() ? weight_.const_data_ptr<acc_t>() : nullptr,
         rows.shape.length,
         ignore_index_,
         static_cast<acc_t>(target_share_),
         sharded},
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
  RowOperand<const acc_t> class_operand() const {
    return rows.shape.shared(shares_operand() ? operand_.const_data_ptr<acc_t>() : nullptr);
  }

  // Calls f(operand) or, without an operand, f().
  template <class acc_t, class scalar_t, class F>
  void with_operand(const F& f) const {
    if (!operand_.defined()) {
      f();
    } else if (shares_operand()) {
      f(class_operand<acc_t>());
    } else if (operand_.scalar_type() == rows.dense.scalar_type()) {
      f(rows.shape.each(operand_.const_data_ptr<scalar_t>()));
    } else {
      f(rows.shape.each(operand_.const_data_ptr<acc_t>()));
    }
  }

  ClassRows rows;
  double softcap;
  bool sharded;

 private:
  bool shares_operand() const { return operand_.defined() && index_.defined(); }
  int64_t columns() const { return operand_.defined() || sharded ? 3 : 2; }

  Tensor index_, weight_, operand_;
  int64_t ignore_index_;
  double z_;
  double target_share_, slope_ = 0, shift_ = 0;
};

// Calls f with values of the element type and of the statistics' type, and whether there is a cap.
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
    bool zero_if_empty,
    int64_t classes_of_all
) {
  const CrossEntropyProblem problem(
      input, target, weight, ignore_index, label_smoothing, z_loss, logit_softcap, classes_of_all
  );
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
          problem.row_data<acc_t, scalar_t, capped()>(statistics), losses, weights
      };
      reduce_rows(input.device(), shape, op, op.x, operand...);
    });
    if (reduction == at::Reduction::None) {
      // The losses of a shard are still to be added up.
      loss = problem.sharded ? losses_of_rows : losses_of_rows.to(input.scalar_type());
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

// Writes the gradient of every row to `out`, which has the layout of the logits and may be the same memory.
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
      "torchnotes: expected a gradient for every row, or one gradient and the scale"
  );
  with_types(out, problem.softcap, [&](auto zero, auto acc_zero, auto capped) {
    using scalar_t = decltype(zero);
    using acc_t = decltype(acc_zero);
    const CrossEntropyBackward<acc_t, scalar_t, capped()> op{
        problem.row_data<acc_t, scalar_t, capped()>(statistics),
        gradient_of_loss<acc_t, scalar_t>(per_row, scale),
        shape.each(out.mutable_data_ptr<scalar_t>()),
        problem.class_operand<acc_t>(),
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
    double logit_softcap,
    int64_t classes_of_all
) {
  const CrossEntropyProblem problem(
      input, target, weight, ignore_index, label_smoothing, z_loss, logit_softcap, classes_of_all
  );
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
    double logit_softcap,
    int64_t classes_of_all
) {
  const CrossEntropyProblem problem(
      input, target, weight, ignore_index, label_smoothing, z_loss, logit_softcap, classes_of_all
  );
  const bool copied = !problem.rows.dense.is_alias_of(input);
  const Tensor out = copied ? problem.rows.dense : input;
  write_gradient(problem, grad, statistics, scale, reduction, out);
  if (copied) {
    input.copy_(out);
  }
}

// Returns (dG.v/dg of each row, H v), where G is the gradient of the unreduced losses, given g.
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
  const Tensor v = problem.rows.to_layout(tangent), per_row = grad.reshape({-1}).contiguous();
  TORCH_CHECK(per_row.numel() == shape.rows, "torchnotes: expected a gradient for every row");
  const Tensor along_grad = at::empty(shape_of_losses(input), per_row.options());
  const Tensor out = problem.empty_gradient(input);
  with_types(input, logit_softcap, [&](auto zero, auto acc_zero, auto capped) {
    using scalar_t = decltype(zero);
    using acc_t = decltype(acc_zero);
    const CrossEntropyHessian<acc_t, scalar_t, capped()> op{
        problem.row_data<acc_t, scalar_t, capped()>(statistics),
        {per_row.const_data_ptr<scalar_t>(), 1, nullptr},
        shape.each(v.const_data_ptr<scalar_t>()),
        shape.each(out.mutable_data_ptr<scalar_t>()),
        problem.class_operand<acc_t>(),
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
