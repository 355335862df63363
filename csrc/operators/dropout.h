// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/dropout.h"
#include "../noise.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("dropout", [](const Tensor& input, const Tensor& key, double p, Place place) {
    return multiply(Dropout(p), input, key, place);
  });
  m.impl("dropout_", [](Tensor& input, const Tensor& key, double p, Place place) {
    multiply_(Dropout(p), input, key, place);
  });
}
