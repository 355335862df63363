// What the operators of all elementwise losses share.
#pragma once

#include <ATen/core/Reduction.h>
#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>
#include <vector>

#include "kernels/elementwise_loss.h"
#include "tensors/allocate.h"
#include "tensors/broadcast.h"
#include "tensors/types.h"

namespace torchnotes {

inline bool reduces(int64_t reduction) { return reduction != at::Reduction::None; }

inline ElementwiseInputs inputs_of(const Elements& elements, c10::ArrayRef<Operand> operands) {
  ElementwiseInputs in{elements.size()};
  for (const Operand& operand : operands) {
    in.operands[in.count++] = operand.plain();
  }
  return in;
}

// The loss, and the scale of its gradient, which is empty if there is no reduction.
// Calls run_kernel(ElementwiseLoss).
template <class F>
std::tuple<at::Tensor, at::Tensor> elementwise_loss(
    const Elements& elements, c10::ArrayRef<Operand> operands, int64_t reduction, const F& run_kernel
) {
  const at::Tensor& x = elements.tensor();
  check_element_type(x.scalar_type(), "torchnotes::loss");
  const bool reduced = reduces(reduction);
  const at::Tensor loss = reduced ? at::empty({}, x.options()) : empty_like_dense(x);
  const at::Tensor scale =
      at::empty(reduced ? at::IntArrayRef() : at::IntArrayRef({0}), x.options().dtype(at::kDouble));
  run_kernel(
      ElementwiseLoss{
          inputs_of(elements, operands),
          x.scalar_type(),
          loss.mutable_data_ptr(),
          reduced ? scale.mutable_data_ptr<double>() : nullptr,
          reduction == at::Reduction::Mean
      }
  );
  return {loss, scale};
}

// Calls run_kernel(ElementwiseLossGradient).
template <class F>
at::Tensor elementwise_loss_gradient(
    const Elements& elements,
    std::vector<Operand> operands,
    const at::Tensor& grad,
    const std::optional<at::Tensor>& scale,
    int64_t reduction,
    const F& run_kernel
) {
  const at::Tensor& x = elements.tensor();
  const bool reduced = reduces(reduction);
  TORCH_CHECK(
      !reduced || (grad.numel() == 1 && scale && scale->numel() == 1),
      "torchnotes: expected one number each for the gradient of a reduced loss and its scale, got a gradient of size ",
      grad.sizes()
  );
  check_same_type(x, grad);
  check_element_type(x.scalar_type(), "torchnotes::loss_backward");
  if (!reduced) {
    operands.insert(operands.begin(), elements.operand(grad));
  }
  const at::Tensor out = empty_like_dense(x);
  run_kernel(
      ElementwiseLossGradient{
          inputs_of(elements, operands),
          x.scalar_type(),
          out.mutable_data_ptr(),
          reduced ? grad.const_data_ptr() : nullptr,
          reduced ? scale->const_data_ptr<double>() : nullptr
      }
  );
  return out;
}

}  // namespace torchnotes
