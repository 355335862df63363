// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/gradient_norm.h"
#include "../parameters.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  m.impl("gradient_norm", [](at::TensorList tensors) {
    TORCH_CHECK(!tensors.empty(), "gradient_norm: expected at least one tensor");
    std::vector<at::Tensor> dense;
    for (const at::Tensor& x : tensors) {
      TORCH_CHECK(
          x.scalar_type() == tensors[0].scalar_type() && x.device() == tensors[0].device(),
          "gradient_norm: expected tensors of one dtype and device, got ",
          tensors[0].scalar_type(),
          " on ",
          tensors[0].device(),
          " and ",
          x.scalar_type(),
          " on ",
          x.device()
      );
      const at::Tensor plain = is_plain(x) ? x : at::empty_like(x).copy_(x);
      const at::Tensor real = x.is_complex() ? at::view_as_real(plain) : plain;
      dense.push_back(real.is_non_overlapping_and_dense() ? real : real.contiguous());
    }
    return norm_of_all(dense);
  });
}
