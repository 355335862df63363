// Included by the kernels of either device, after its driver.
#pragma once

#include "../elementwise_loss.h"
#include "../formulas/pinball_loss.h"

#include <ATen/OpMathType.h>
#include <ATen/ops/tensor.h>
#include <torch/library.h>

#include <vector>

namespace torchnotes {
namespace {

// Numbers along the last dimension of the elements, or one number for all of them.
inline PreciseOperand along_last(const Elements& elements, const std::vector<double>& numbers) {
  const at::Tensor exact = at::tensor(numbers, at::kDouble).squeeze();
  return elements.precise_operand(
      exact.to(elements.tensor().device(), at::toOpMathType(elements.tensor().scalar_type()))
  );
}

// Calls f(tau, sigma, weight) or, without a weight, f(tau, sigma).
template <class F>
auto with_quantiles(
    const Elements& elements, at::ArrayRef<double> quantiles, const std::optional<at::Tensor>& weight, const F& f
) {
  std::vector<double> rest;
  for (const double tau : quantiles) {
    rest.push_back(1 - tau);
  }
  const PreciseOperand tau = along_last(elements, quantiles.vec()), sigma = along_last(elements, rest);
  return weight ? f(tau, sigma, elements.operand(*weight)) : f(tau, sigma);
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
        return with_quantiles(elements, quantiles, weight, [&](const auto&... rest) {
          return loss(f, reduction, elements, x, y, rest...);
        });
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
        return with_quantiles(elements, quantiles, weight, [&](const auto&... rest) {
          return loss_backward(f, grad, scale, reduction, elements, x, y, rest...);
        });
      }
  );
}
