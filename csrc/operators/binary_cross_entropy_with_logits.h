// Included by the kernels of either device, after its driver.
#pragma once

#include "../elementwise_loss.h"
#include "../formulas/binary_cross_entropy_with_logits.h"

#include <ATen/ops/ones.h>
#include <torch/library.h>

#include <limits>

namespace torchnotes {
namespace {

inline Labels labels(double smoothing, std::optional<double> ignored) {
  return {smoothing, ignored.value_or(std::numeric_limits<double>::quiet_NaN())};
}

// Calls f with the operands: either both weights or none; a missing one is 1.
template <class F>
auto with_weights(
    const Elements& elements,
    const at::Tensor& target,
    const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& pos_weight,
    const F& f
) {
  const Operand x = elements.operand(), y = elements.operand(target);
  if (!weight && !pos_weight) {
    return f(x, y);
  }
  const auto or_one = [&](const std::optional<at::Tensor>& given) {
    return elements.operand(given ? *given : at::ones({}, target.options()));
  };
  return f(x, y, or_one(weight), or_one(pos_weight));
}

}  // namespace
}  // namespace torchnotes

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  using Optional = std::optional<Tensor>;
  m.impl(
      "binary_cross_entropy_with_logits",
      [](const Tensor& input,
         const Tensor& target,
         const Optional& weight,
         const Optional& pos_weight,
         int64_t reduction,
         double label_smoothing,
         std::optional<double> ignore_index) {
        const Elements elements(input);
        return with_weights(elements, target, weight, pos_weight, [&](const auto&... operands) {
          return loss(BinaryCrossEntropy{labels(label_smoothing, ignore_index)}, reduction, elements, operands...);
        });
      }
  );
  m.impl(
      "binary_cross_entropy_with_logits_backward",
      [](const Tensor& grad,
         const Tensor& input,
         const Tensor& target,
         const Optional& weight,
         const Optional& pos_weight,
         const Optional& scale,
         int64_t reduction,
         double label_smoothing,
         std::optional<double> ignore_index) {
        const BinaryCrossEntropyBackward f{labels(label_smoothing, ignore_index)};
        const Elements elements(input);
        return with_weights(elements, target, weight, pos_weight, [&](const auto&... operands) {
          return loss_backward(f, grad, scale, reduction, elements, operands...);
        });
      }
  );
}
