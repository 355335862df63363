// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/trunc_normal.h"
#include "../noise.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl(
      "trunc_normal_", [](Tensor& self, const Tensor& key, double mean, double std, double a, double b, Place place) {
        TORCH_CHECK(std > 0, "trunc_normal_ expects std > 0, but found std ", std);
        TORCH_CHECK(a <= b, "trunc_normal_ expects a <= b, but found a=", a, " > b=", b);
        fill_(TruncatedNormal(mean, std, a, b), self, key, place);
      }
  );
}
