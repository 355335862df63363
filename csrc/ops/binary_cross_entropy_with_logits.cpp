#include "kernels/binary_cross_entropy_with_logits.h"

#include <ATen/ops/ones.h>

#include <limits>

#include "ops/elementwise_loss.h"
#include "ops/register.h"
#include "tensors/run.h"

namespace torchnotes {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Either both weights or none; a missing one is 1.
std::vector<Operand> operands_of(
    const Elements& elements, const Tensor& target, const OptionalTensor& weight, const OptionalTensor& pos_weight
) {
  std::vector<Operand> operands = {elements.operand(), elements.operand(target)};
  if (weight || pos_weight) {
    for (const OptionalTensor& given : {weight, pos_weight}) {
      operands.push_back(elements.operand(given ? *given : at::ones({}, target.options())));
    }
  }
  return operands;
}

// A label that equals nothing, if none is ignored.
double ignored(std::optional<double> ignore_index) {
  return ignore_index.value_or(std::numeric_limits<double>::quiet_NaN());
}

std::tuple<Tensor, Tensor> binary_cross_entropy_with_logits(
    const Tensor& input,
    const Tensor& target,
    const OptionalTensor& weight,
    const OptionalTensor& pos_weight,
    int64_t reduction,
    double label_smoothing,
    std::optional<double> ignore_index
) {
  const Elements elements(input);
  return elementwise_loss(
      elements, operands_of(elements, target, weight, pos_weight), reduction, [&](const ElementwiseLoss& arguments) {
        run(input.device(), BinaryCrossEntropyLoss{arguments, label_smoothing, ignored(ignore_index)});
      }
  );
}

Tensor binary_cross_entropy_with_logits_backward(
    const Tensor& grad,
    const Tensor& input,
    const Tensor& target,
    const OptionalTensor& weight,
    const OptionalTensor& pos_weight,
    const OptionalTensor& scale,
    int64_t reduction,
    double label_smoothing,
    std::optional<double> ignore_index
) {
  const Elements elements(input);
  return elementwise_loss_gradient(
      elements,
      operands_of(elements, target, weight, pos_weight),
      grad,
      scale,
      reduction,
      [&](const ElementwiseLossGradient& arguments) {
        run(input.device(), BinaryCrossEntropyLossGradient{arguments, label_smoothing, ignored(ignore_index)});
      }
  );
}

}  // namespace
}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  using namespace torchnotes;
  m.impl("binary_cross_entropy_with_logits", binary_cross_entropy_with_logits);
  m.impl("binary_cross_entropy_with_logits_backward", binary_cross_entropy_with_logits_backward);
}
