// Included by the kernels of either device, after its driver.
#pragma once

#include "../elementwise_loss.h"
#include "../formulas/pinball_loss.h"

#include <ATen/OpMathType.h>
#include <torch/library.h>

namespace torchnotes {
namespace {

// The quantiles along the last dimension of the elements, or the one of them all.
inline PreciseOperand quantile_of_each(const Elements& elements, at::ArrayRef<double> quantiles) {
  const auto dtype = at::toOpMathType(elements.tensor().scalar_type());
  const int64_t count = quantiles.size();
  const at::Tensor numbers = at::empty(count == 1 ? at::DimVector{} : at::DimVector{count}, dtype);
  if (dtype == at::kDouble) {
    std::copy(quantiles.begin(), quantiles.end(), numbers.mutable_data_ptr<double>());
  } else {
    std::copy(quantiles.begin(), quantiles.end(), numbers.mutable_data_ptr<float>());
  }
  return elements.precise_operand(numbers.to(elements.tensor().device()));
}

}  // namespace
}  // namespace torchnotes

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  using Optional = std::optional<Tensor>;
  m.impl(
      "pinball_loss",
      [](const Tensor& input,
         const Tensor& target,
         const Optional& weight,
         at::ArrayRef<double> quantiles,
         int64_t reduction,
         double smoothing) {
        const Pinball f{smoothing};
        const Elements elements(input);
        const Operand x = elements.operand(), y = elements.operand(target);
        const auto tau = quantile_of_each(elements, quantiles);
        return weight ? loss(f, reduction, elements, x, y, tau, elements.operand(*weight))
                      : loss(f, reduction, elements, x, y, tau);
      }
  );
  m.impl(
      "pinball_loss_backward",
      [](const Tensor& grad,
         const Tensor& input,
         const Tensor& target,
         const Optional& weight,
         const Optional& scale,
         at::ArrayRef<double> quantiles,
         int64_t reduction,
         double smoothing) {
        const PinballBackward f{smoothing};
        const Elements elements(input);
        const Operand x = elements.operand(), y = elements.operand(target);
        const auto tau = quantile_of_each(elements, quantiles);
        return weight ? loss_backward(f, grad, scale, reduction, elements, x, y, tau, elements.operand(*weight))
                      : loss_backward(f, grad, scale, reduction, elements, x, y, tau);
      }
  );
}
