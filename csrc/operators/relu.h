// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/relu.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("relu", [](const Tensor& input) { return map(ReLU{}, input); });
  m.impl("relu_", [](Tensor& input) { map_(ReLU{}, input); });
  m.impl("relu_backward", [](const Tensor& grad, const Tensor& output) { return map(ReLUBackward{}, output, grad); });
}
