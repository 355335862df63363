// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/gaussian_dropout.h"
#include "../noise.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("gaussian_dropout", [](const Tensor& input, const Tensor& key, double mean, double sigma, Place place) {
    return multiply(GaussianDropout{mean, sigma}, input, key, place);
  });
  m.impl("gaussian_dropout_", [](Tensor& input, const Tensor& key, double mean, double sigma, Place place) {
    multiply_(GaussianDropout{mean, sigma}, input, key, place);
  });
}
