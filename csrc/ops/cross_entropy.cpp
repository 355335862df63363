#include "kernels/cross_entropy.h"

#include <ATen/OpMathType.h>
#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

#include "ops/register.h"
#include "tensors/allocate.h"
#include "tensors/check_classes.h"
#include "tensors/class_rows.h"
#include "tensors/run.h"

namespace torchnotes {
namespace {

using at::Tensor;

struct Options {
  int64_t ignore_index;
  double label_smoothing, z_loss, logit_softcap;
  int64_t classes_of_all = 0;  // if the logits are a shard of the classes
};

// One number for each row.
RowOperand numbers(void* data, at::ScalarType type) { return {data, type, 1, 0}; }
RowOperand numbers(const Tensor& contiguous) { return numbers(contiguous.data_ptr(), contiguous.scalar_type()); }

Tensor with_type(const Tensor& x, at::ScalarType type) {
  return (x.scalar_type() == type ? x : x.to(type)).contiguous();
}

// The operands of cross-entropy, checked and in matching layouts.
class Operands {
 public:
  Operands(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight, const Options& options)
      : options_(options), rows(checked_rows(input, target, weight, options)) {
    const int64_t classes = options.classes_of_all > 0 ? options.classes_of_all : rows.shape.length;
    uniform_ = options.label_smoothing / static_cast<double>(std::max<int64_t>(classes, 1));
    if (weight && weight->defined()) {
      weight_ = with_type(*weight, statistic());
    }
    if (has_probabilities(input, target)) {
      probabilities_ =
          rows.to_layout(target.scalar_type() == input.scalar_type() ? target : target.to(input.scalar_type()));
    } else {
      index_ = with_type(target, at::kLong);
    }
  }

  at::ScalarType statistic() const { return at::toOpMathType(rows.dense.scalar_type()); }
  bool sharded() const { return options_.classes_of_all > 0; }

  Tensor empty(at::IntArrayRef shape, at::ScalarType type) const {
    return at::empty(shape, rows.dense.options().dtype(type));
  }
  Tensor empty_statistics() const { return empty({rows.shape.rows, columns()}, statistic()); }
  Tensor empty_gradient(const Tensor& input) const { return empty_like_dense(rows.moved ? input : rows.dense); }

  Tensor checked_statistics(const Tensor& statistics) const {
    const std::array<int64_t, 2> shape{rows.shape.rows, columns()};
    TORCH_CHECK(
        statistics.sizes() == at::IntArrayRef(shape) && statistics.scalar_type() == statistic(),
        "torchnotes: expected statistics of size ",
        at::IntArrayRef(shape),
        " and dtype ",
        statistic(),
        ", got ",
        statistics.sizes(),
        " and ",
        statistics.scalar_type()
    );
    return statistics.contiguous();
  }

  CrossEntropyRows with(const Tensor& statistics) const {
    return {
        rows.shape,
        rows.read(rows.dense),
        probabilities_.defined() ? rows.read(probabilities_) : RowOperand{},
        index_.defined() ? index_.const_data_ptr<int64_t>() : nullptr,
        weight_.defined() ? weight_.const_data_ptr() : nullptr,
        1 - options_.label_smoothing,
        uniform_,
        options_.z_loss,
        options_.logit_softcap,
        options_.ignore_index,
        sharded(),
        statistics.data_ptr(),
        columns(),
    };
  }

 private:
  static ClassRows checked_rows(
      const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight, const Options& options
  ) {
    check_classes(input, target, weight, options.ignore_index, options.label_smoothing);
    return class_rows(input, input.dim() > 1);
  }
  int64_t columns() const { return probabilities_.defined() || options_.label_smoothing > 0 || sharded() ? 3 : 2; }

  Options options_;
  Tensor index_, weight_, probabilities_;
  double uniform_;

 public:
  const ClassRows rows;
};

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
  const Operands operands(
      input, target, weight, {ignore_index, label_smoothing, z_loss, logit_softcap, classes_of_all}
  );
  if (!operands.sharded()) {  // otherwise the class may be in another shard
    check_indices_in_range(input, target, ignore_index);
  }
  const at::ScalarType type = input.scalar_type(), statistic = operands.statistic();
  const Tensor statistics = operands.empty_statistics(), scale = operands.empty({}, statistic);
  if (reduction == at::Reduction::None) {
    // The losses of a shard are still to be added up.
    const Tensor losses = operands.empty(shape_of_losses(input), operands.sharded() ? statistic : type);
    run(input.device(), CrossEntropy{operands.with(statistics), numbers(losses)});
    return {losses, statistics, scale};
  }
  const int64_t rows = operands.rows.shape.rows;
  const Tensor loss = operands.empty({}, type), of_rows = operands.empty({2, rows}, statistic);
  void* const scratch = of_rows.mutable_data_ptr();
  const bool mean = reduction == at::Reduction::Mean;
  run(input.device(),
      CrossEntropy{
          operands.with(statistics),
          numbers(scratch, statistic),
          static_cast<char*>(scratch) + rows * element_bytes(statistic),
          mean,
          zero_if_empty,
          numbers(loss),
          scale.mutable_data_ptr(),
      });
  return {loss, statistics, scale};
}

// Writes the gradient of every row to `out`, which has the layout of the logits and may be the same memory.
void write_gradient(
    const Operands& operands,
    const Tensor& grad,
    const Tensor& statistics,
    const std::optional<Tensor>& scale,
    int64_t reduction,
    const Tensor& out
) {
  check_same_type(grad, out);
  const bool each = reduction == at::Reduction::None;
  TORCH_CHECK(
      each ? grad.numel() == operands.rows.shape.rows : grad.numel() == 1 && scale.has_value(),
      "torchnotes: expected a gradient for every row, or one gradient and the scale"
  );
  TORCH_CHECK(
      !scale || scale->scalar_type() == operands.statistic(),
      "torchnotes: expected a scale of dtype ",
      operands.statistic()
  );
  const Tensor checked = operands.checked_statistics(statistics), of_rows = grad.contiguous();
  RowOperand g = numbers(of_rows);
  g.row_stride = each ? 1 : 0;
  run(out.device(),
      CrossEntropyGradient{
          operands.with(checked),
          operands.rows.written(out),
          g,
          each ? nullptr : scale->const_data_ptr(),
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
  const Operands operands(
      input, target, weight, {ignore_index, label_smoothing, z_loss, logit_softcap, classes_of_all}
  );
  const Tensor out = operands.empty_gradient(input);
  write_gradient(operands, grad, statistics, scale, reduction, out);
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
  const Operands operands(
      input, target, weight, {ignore_index, label_smoothing, z_loss, logit_softcap, classes_of_all}
  );
  const Tensor& dense = operands.rows.dense;
  const bool copied = !dense.is_alias_of(input);
  write_gradient(operands, grad, statistics, scale, reduction, copied ? dense : input);
  if (copied) {
    input.copy_(dense);
  }
}

std::tuple<Tensor, Tensor> cross_entropy_curvature(
    const Tensor& tangent,
    const Tensor& grad,
    const Tensor& input,
    const Tensor& target,
    const std::optional<Tensor>& weight,
    const Tensor& statistics,
    int64_t ignore_index,
    double label_smoothing,
    double z_loss,
    double logit_softcap
) {
  check_same(tangent, input);
  check_same_type(grad, input);
  const Operands operands(input, target, weight, {ignore_index, label_smoothing, z_loss, logit_softcap});
  const ClassRows& rows = operands.rows;
  TORCH_CHECK(grad.numel() == rows.shape.rows, "torchnotes: expected a gradient for every row");
  const Tensor of_rows = grad.contiguous(), v = rows.to_layout(tangent);
  const Tensor checked = operands.checked_statistics(statistics), out = operands.empty_gradient(input);
  const Tensor along_grad = operands.empty(shape_of_losses(input), input.scalar_type());
  run(input.device(),
      CrossEntropyCurvature{
          operands.with(checked),
          rows.written(out),
          numbers(along_grad),
          rows.read(v),
          numbers(of_rows),
      });
  return {along_grad, out};
}

}  // namespace
}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  using namespace torchnotes;
  m.impl("cross_entropy", torchnotes::cross_entropy);
  m.impl("cross_entropy_backward", cross_entropy_backward);
  m.impl("cross_entropy_backward_", cross_entropy_backward_);
  m.impl("cross_entropy_curvature", cross_entropy_curvature);
}
