// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/uniform.h"
#include "../noise.h"

#include <ATen/Dispatch.h>
#include <torch/library.h>

#include <limits>

namespace torchnotes {
namespace {

// The checks and messages of torch's uniform_.
void check_bounds(const at::Tensor& self, double a, double b) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, self.scalar_type(), "torchnotes::uniform_", [&] {
    const double max = std::numeric_limits<scalar_t>::max();
    TORCH_CHECK(-max <= a && a <= max, "from is out of bounds for ", self.dtype());
    TORCH_CHECK(-max <= b && b <= max, "to is out of bounds for ", self.dtype());
    TORCH_CHECK(a <= b, "uniform_ expects to return a [from, to) range, but found from=", a, " > to=", b);
    TORCH_CHECK(
        b - a <= max,
        "uniform_ expects to-from <= std::numeric_limits<",
        self.scalar_type(),
        ">::max(), but found to=",
        b,
        " and from=",
        a,
        " which result in to-from to exceed the limit"
    );
  });
}

}  // namespace
}  // namespace torchnotes

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("uniform_", [](Tensor& self, const Tensor& key, double a, double b, Place place) {
    check_bounds(self, a, b);
    fill_(Uniform{a, b}, self, key, place);
  });
}
