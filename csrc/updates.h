// Calls an update rule, on either device: update_all(rule, call, states). Include it after the driver.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>

#include <initializer_list>
#include <optional>

#include "parameters.h"

namespace torchnotes {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// The arguments that every update operator has besides the states and the hyperparameters of its rule.
struct UpdateCall {
  at::TensorList params, grads, compensations, steps;
  UpdateOptions options;
};

// `states` in the order of the rule. Everything is checked before anything is written.
template <class Rule>
void update_all(const Rule& rule, const UpdateCall& call, std::initializer_list<at::TensorList> states) {
  const UpdateOptions& options = call.options;
  if (call.params.empty()) {
    return;
  }
  const at::AutoDispatchBelowADInplaceOrView nothing_to_record;
  const at::Tensor& w = call.params[0];
  TORCH_CHECK(
      (call.compensations.empty() && !options.stream.has_value()) || at::isReducedFloatingType(w.scalar_type()),
      "torchnotes: stochastic rounding and compensation require float16 or bfloat16 parameters, got ",
      w.scalar_type()
  );
  bool valid_places = options.places.empty() || options.places.size() == 3 * call.params.size();
  for (size_t i = 0; valid_places && i < options.places.size() / 3; ++i) {
    const GlobalIndex place = options.global_index(i);
    valid_places = place.first >= 0 && place.length > 0 && place.pitch >= 0;
  }
  TORCH_CHECK(
      valid_places,
      "torchnotes: expected a non-negative place (first, length, pitch) for each of ",
      call.params.size(),
      " parameters, got ",
      options.places
  );
  for (const auto* number : {&options.device_lr, &options.grad_norm, &options.grad_scale, &options.found_inf}) {
    TORCH_CHECK(
        !number->has_value() || ((*number)->numel() == 1 && (*number)->device() == w.device()),
        "torchnotes: expected one number on ",
        w.device(),
        ", got size ",
        (*number)->sizes(),
        " on ",
        (*number)->device()
    );
  }
  Parameters parameters(call.params);
  parameters.add(call.grads, "gradient", /*written=*/options.grad_scale.has_value());
  for (const at::TensorList& list : states) {
    parameters.add(list, "state");
  }
  if (!call.compensations.empty()) {
    parameters.add(call.compensations, "compensation");
  }
  TORCH_CHECK(
      call.steps.empty() || call.steps.size() == call.params.size(),
      "torchnotes: expected ",
      call.params.size(),
      " steps, one for each parameter, got ",
      call.steps.size()
  );
  for (const at::Tensor& step : call.steps) {
    check_step(w, step);
  }
  update(rule, parameters, call.steps, options);
}

}  // namespace
}  // namespace torchnotes
