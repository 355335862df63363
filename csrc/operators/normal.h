// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/normal.h"
#include "../noise.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("normal_", [](Tensor& self, const Tensor& key, double mean, double std, Place place) {
    TORCH_CHECK(std >= 0, "normal expects std >= 0.0, but found std ", std);
    fill_(Normal{mean, std}, self, key, place);
  });
}
