// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/sigmoid.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("sigmoid", [](const Tensor& input) { return map(Sigmoid{}, input); });
  m.impl("sigmoid_backward", [](const Tensor& grad, const Tensor& output) {
    return map(SigmoidBackward{}, grad, output);
  });
  m.impl("sigmoid_curvature", [](const Tensor& tangent, const Tensor& grad, const Tensor& output) {
    return map(SigmoidCurvature{}, tangent, grad, output);
  });
}
