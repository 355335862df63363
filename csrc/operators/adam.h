// Included by the kernels of either device, after its driver.
#pragma once

#include "../formulas/adam.h"
#include "../updates.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::TensorList;
  m.impl(
      "adam_",
      [](TensorList params,
         TensorList grads,
         TensorList exp_avgs,
         TensorList exp_avg_sqs,
         TensorList max_exp_avg_sqs,
         TensorList compensations,
         TensorList steps,
         double lr,
         double beta1,
         double beta2,
         double eps,
         double weight_decay,
         bool decoupled_weight_decay,
         bool maximize,
         std::optional<int64_t> stream,
         const OptionalTensor& device_lr,
         double max_grad_norm,
         const OptionalTensor& grad_norm,
         const OptionalTensor& grad_scale,
         const OptionalTensor& found_inf,
         at::IntArrayRef places) {
        TORCH_CHECK(steps.size() == params.size(), "adam_: expected a step for each parameter");
        const UpdateCall call{
            params,
            grads,
            compensations,
            steps,
            {lr, device_lr, maximize, stream, max_grad_norm, grad_norm, grad_scale, found_inf, places}
        };
        if (max_exp_avg_sqs.empty()) {
          const Adam<false> rule{beta1, beta2, eps, weight_decay, decoupled_weight_decay};
          update_all(rule, call, {exp_avgs, exp_avg_sqs});
        } else {
          const Adam<true> rule{beta1, beta2, eps, weight_decay, decoupled_weight_decay};
          update_all(rule, call, {exp_avgs, exp_avg_sqs, max_exp_avg_sqs});
        }
      }
  );
}
