// Included by the kernels of either device, after its driver.
#pragma once

#include "../drawn.h"
#include "../formulas/uniform.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("uniform_", [](Tensor& self, const Tensor& key, double a, double b, Place place) {
    TORCH_CHECK(a <= b, "uniform_ expects to return a [from, to) range, but found from=", a, " > to=", b);
    fill_(Uniform{a, b}, self, key, place);
  });
}
