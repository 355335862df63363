// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/sgd.h"
#include "../updates.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::TensorList;
  m.impl(
      "sgd_",
      [](TensorList params,
         TensorList grads,
         TensorList momentum_buffers,
         TensorList compensations,
         TensorList steps,
         double lr,
         double momentum,
         double dampening,
         double weight_decay,
         bool nesterov,
         bool first,
         bool maximize,
         std::optional<int64_t> stream,
         const OptionalTensor& device_lr,
         double max_grad_norm,
         const OptionalTensor& grad_norm,
         const OptionalTensor& grad_scale,
         const OptionalTensor& found_inf,
         at::IntArrayRef places) {
        TORCH_CHECK(
            momentum == 0 || momentum_buffers.size() == params.size(),
            "sgd_: expected a momentum buffer for each parameter"
        );
        const UpdateCall call{
            params,
            grads,
            compensations,
            steps,
            {lr, device_lr, maximize, stream, max_grad_norm, grad_norm, grad_scale, found_inf, places}
        };
        if (momentum_buffers.empty()) {
          update_all(SGD<false>{0, 0, weight_decay, false, false}, call, {});
        } else {
          update_all(SGD<true>{momentum, dampening, weight_decay, nesterov, first}, call, {momentum_buffers});
        }
      }
  );
}
