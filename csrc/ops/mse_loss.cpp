#include "kernels/mse_loss.h"

#include "ops/elementwise_loss.h"
#include "ops/register.h"
#include "tensors/run.h"

namespace torchnotes {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

std::vector<Operand> operands_of(const Elements& elements, const Tensor& target, const OptionalTensor& weight) {
  std::vector<Operand> operands = {elements.operand(), elements.operand(target)};
  if (weight) {
    operands.push_back(elements.operand(*weight));
  }
  return operands;
}

std::tuple<Tensor, Tensor> mse_loss(
    const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction
) {
  const Elements elements(input);
  return elementwise_loss(
      elements, operands_of(elements, target, weight), reduction, [&](const ElementwiseLoss& arguments) {
        run(input.device(), MSELoss{arguments});
      }
  );
}

Tensor mse_loss_backward(
    const Tensor& grad,
    const Tensor& input,
    const Tensor& target,
    const OptionalTensor& weight,
    const OptionalTensor& scale,
    int64_t reduction
) {
  const Elements elements(input);
  return elementwise_loss_gradient(
      elements,
      operands_of(elements, target, weight),
      grad,
      scale,
      reduction,
      [&](const ElementwiseLossGradient& arguments) { run(input.device(), MSELossGradient{arguments}); }
  );
}

}  // namespace
}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  m.impl("mse_loss", torchnotes::mse_loss);
  m.impl("mse_loss_backward", torchnotes::mse_loss_backward);
}
