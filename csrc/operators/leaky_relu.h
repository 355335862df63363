// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/leaky_relu.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("leaky_relu", [](const Tensor& input, double slope) { return map(LeakyReLU{slope}, input); });
  m.impl("leaky_relu_", [](Tensor& input, double slope) { map_(LeakyReLU{slope}, input); });
  m.impl("leaky_relu_backward", [](const Tensor& grad, const Tensor& reference, double slope) {
    return map(LeakyReLUBackward{slope}, reference, grad);
  });
}
