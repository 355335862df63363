#include "kernels/pinball_loss.h"

#include <ATen/OpMathType.h>
#include <ATen/ops/tensor.h>

#include "ops/elementwise_loss.h"
#include "ops/register.h"
#include "tensors/run.h"

namespace torchnotes {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Numbers along the last dimension of the elements, or one number for all of them, as precise as the arithmetic.
Operand along_last(const Elements& elements, const std::vector<double>& numbers) {
  const Tensor exact = at::tensor(numbers, at::kDouble).squeeze(), &x = elements.tensor();
  return elements.operand_of_numbers(exact.to(x.device(), at::toOpMathType(x.scalar_type())));
}

std::vector<Operand> operands_of(
    const Elements& elements, const Tensor& target, at::ArrayRef<double> quantiles, const OptionalTensor& weight
) {
  std::vector<double> rest;
  for (const double tau : quantiles) {
    rest.push_back(1 - tau);
  }
  std::vector<Operand> operands = {
      elements.operand(),
      elements.operand(target),
      along_last(elements, quantiles.vec()),
      along_last(elements, rest),
  };
  if (weight) {
    operands.push_back(elements.operand(*weight));
  }
  return operands;
}

std::tuple<Tensor, Tensor> pinball_loss(
    const Tensor& input,
    const Tensor& target,
    const OptionalTensor& weight,
    at::ArrayRef<double> quantiles,
    int64_t reduction,
    double smoothing
) {
  const Elements elements(input);
  return elementwise_loss(
      elements, operands_of(elements, target, quantiles, weight), reduction, [&](const ElementwiseLoss& arguments) {
        run(input.device(), PinballLoss{arguments, smoothing});
      }
  );
}

Tensor pinball_loss_backward(
    const Tensor& grad,
    const Tensor& input,
    const Tensor& target,
    const OptionalTensor& weight,
    const OptionalTensor& scale,
    at::ArrayRef<double> quantiles,
    int64_t reduction,
    double smoothing
) {
  const Elements elements(input);
  return elementwise_loss_gradient(
      elements,
      operands_of(elements, target, quantiles, weight),
      grad,
      scale,
      reduction,
      [&](const ElementwiseLossGradient& arguments) { run(input.device(), PinballLossGradient{arguments, smoothing}); }
  );
}

}  // namespace
}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  m.impl("pinball_loss", torchnotes::pinball_loss);
  m.impl("pinball_loss_backward", torchnotes::pinball_loss_backward);
}
