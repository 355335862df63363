// Included by the kernels of either device, after its driver.
#pragma once

#include "../elementwise_loss.h"
#include "../formulas/mse_loss.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  using Optional = std::optional<Tensor>;
  m.impl("mse_loss", [](const Tensor& input, const Tensor& target, const Optional& weight, int64_t reduction) {
    const Elements elements(input);
    const Operand x = elements.operand(), y = elements.operand(target);
    return weight ? loss(SquaredError{}, reduction, elements, x, y, elements.operand(*weight))
                  : loss(SquaredError{}, reduction, elements, x, y);
  });
  m.impl(
      "mse_loss_backward",
      [](const Tensor& grad,
         const Tensor& input,
         const Tensor& target,
         const Optional& weight,
         const Optional& scale,
         int64_t reduction) {
        const SquaredErrorBackward f;
        const Elements elements(input);
        const Operand x = elements.operand(), y = elements.operand(target);
        return weight ? loss_backward(f, grad, scale, reduction, elements, x, y, elements.operand(*weight))
                      : loss_backward(f, grad, scale, reduction, elements, x, y);
      }
  );
}
