// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/tanh.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("tanh", [](const Tensor& input) { return map(Tanh{}, input); });
  m.impl("tanh_backward", [](const Tensor& grad, const Tensor& output) { return map(TanhBackward{}, grad, output); });
  m.impl("tanh_curvature", [](const Tensor& tangent, const Tensor& grad, const Tensor& output) {
    return map(TanhCurvature{}, tangent, grad, output);
  });
}
