// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/rmsprop.h"
#include "../updates.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::TensorList;
  m.impl(
      "rmsprop_",
      [](TensorList params,
         TensorList grads,
         TensorList square_avgs,
         TensorList grad_avgs,
         TensorList momentum_buffers,
         TensorList compensations,
         TensorList steps,
         double lr,
         double alpha,
         double eps,
         double weight_decay,
         double momentum,
         bool decoupled_weight_decay,
         bool maximize,
         std::optional<int64_t> stream,
         const OptionalTensor& device_lr,
         double max_grad_norm,
         const OptionalTensor& grad_norm,
         const OptionalTensor& grad_scale,
         const OptionalTensor& found_inf,
         at::IntArrayRef places) {
        TORCH_CHECK(
            !(momentum > 0) || momentum_buffers.size() == params.size(),
            "rmsprop_: expected a momentum buffer for each parameter"
        );
        const UpdateCall call{
            params,
            grads,
            compensations,
            steps,
            {lr, device_lr, maximize, stream, max_grad_norm, grad_norm, grad_scale, found_inf, places}
        };
        const auto update_by = [&]<bool kCentered, bool kMomentum>(auto... states) {
          const RMSprop<kCentered, kMomentum> rule{alpha, eps, momentum, weight_decay, decoupled_weight_decay};
          update_all(rule, call, {square_avgs, states...});
        };
        if (grad_avgs.empty() && momentum_buffers.empty()) {
          update_by.template operator()<false, false>();
        } else if (momentum_buffers.empty()) {
          update_by.template operator()<true, false>(grad_avgs);
        } else if (grad_avgs.empty()) {
          update_by.template operator()<false, true>(momentum_buffers);
        } else {
          update_by.template operator()<true, true>(grad_avgs, momentum_buffers);
        }
      }
  );
}
