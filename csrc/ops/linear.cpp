// Linear layers. What is fused is explained in docs/decisions/linear.md.
#include <ATen/OpMathType.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include <array>
#include <optional>
#include <tuple>

#include "formulas/activations.h"
#include "kernels/activations.h"
#include "kernels/linear.h"
#include "ops/activations.h"
#include "ops/register.h"
#include "tensors/allocate.h"
#include "tensors/convert.h"
#include "tensors/map.h"
#include "tensors/operands.h"
#include "tensors/product.h"
#include "tensors/run.h"

namespace torchnotes {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The columns of a contiguous matrix. A single column has the layout of a row.
RowShape columns_of(const Tensor& x) { return {x.size(1), 1, x.size(0), x.size(1)}; }

void check_factors(const Tensor& a, const Tensor& b) {
  TORCH_CHECK(
      a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0),
      "linear: shapes cannot be multiplied (",
      a.sizes(),
      " and ",
      b.sizes(),
      ")"
  );
  check_same_type(a, b);
}

ActivationMap fused(int64_t activation, double negative_slope, Derivative derivative) {
  ActivationMap arguments{{activation, {}, derivative, {}}};
  with_fused_activation(activation, negative_slope, [&](const auto& f) {
    if constexpr (!std::is_empty_v<std::decay_t<decltype(f)>>) {
      std::memcpy(arguments.options.data(), &f, sizeof(f));
    }
  });
  return arguments;
}

// y <- f(y + 1 b^T)
void add_bias_and_activate(Tensor& y, const Tensor& bias, int64_t activation, double negative_slope) {
  const RowShape shape = columns_of(y);
  const RowOperand elements = shape.each(y.mutable_data_ptr(), y.scalar_type());
  const Tensor b = bias.contiguous();
  run(y.device(), BiasAndActivation{shape, elements, elements, b.const_data_ptr(), activation, negative_slope});
}

// If it `widens`, 16-bit factors give a result in float32.
Tensor linear(
    const Tensor& input,
    const Tensor& weight,
    const OptionalTensor& bias,
    int64_t activation,
    double negative_slope,
    bool widens
) {
  check_activation(activation);
  if (widens && input.element_size() < 4) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto wide = [](const Tensor& x) { return converted(x, at::kFloat); };
    const OptionalTensor b = bias ? wide(*bias) : OptionalTensor();
    return linear(wide(input), wide(weight), b, activation, negative_slope, false);
  }
  const Tensor transposed = weight.t();
  check_factors(input, transposed);
  const Tensor b = bias.value_or(Tensor());
  if (b.defined()) {
    TORCH_CHECK(
        b.dim() == 1 && b.size(0) == weight.size(0),
        "linear: expected a bias of size [",
        weight.size(0),
        "] for a weight of size ",
        weight.sizes(),
        ", got ",
        b.sizes()
    );
    check_same_type(input, b);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  const bool rounds = input.element_size() < 4;  // the product is rounded, so let it include the bias
  Tensor y;
  if (b.defined() && rounds) {
    y = empty_matrix(input.size(0), weight.size(0), input);
    at::addmm_out(y, b, input, transposed);
  } else {
    y = multiply(input, transposed);
  }
  if (b.defined() && !rounds && y.numel() > 0) {
    add_bias_and_activate(y, b, activation, negative_slope);
  } else if (activation != number_of<Identity>()) {
    map_in_place(fused(activation, negative_slope, Derivative::kForward), y);
  }
  return y;
}

struct DeltaAndSums {
  Tensor delta, sums;
};

DeltaAndSums delta_and_sums(const Tensor& g, const Tensor& y, int64_t activation, double negative_slope) {
  check_same(y, g);
  const auto options = y.options().dtype(at::toOpMathType(y.scalar_type()));
  DeltaAndSums result{empty_matrix(y.size(0), y.size(1), y), at::empty({y.size(1)}, options)};
  if (y.numel() == 0) {
    result.sums.zero_();
    return result;
  }
  const RowShape shape = columns_of(y);
  const auto type = y.scalar_type();
  run(y.device(),
      LinearErrors{
          shape,
          shape.each(result.delta.mutable_data_ptr(), type),
          shape.each(g.const_data_ptr(), type),
          shape.each(y.const_data_ptr(), type),
          result.sums.mutable_data_ptr(),
          activation,
          negative_slope
      });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> linear_backward(
    const Tensor& grad,
    const OptionalTensor& input,
    const OptionalTensor& weight,
    const OptionalTensor& output,
    int64_t activation,
    double negative_slope,
    std::array<bool, 3> output_mask
) {
  check_activation(activation);
  const at::AutoDispatchBelowADInplaceOrView below;
  Tensor delta = grad, of_input, of_weight, of_bias;
  if (activation == number_of<Identity>()) {
    of_bias = output_mask[2] ? at::sum(grad, {0}) : of_bias;
  } else {
    TORCH_CHECK(output, "linear_backward: the gradient of an activation requires the output");
    if (output_mask[2] && grad.size(-1) > 1) {
      const auto found = delta_and_sums(grad.contiguous(), output->contiguous(), activation, negative_slope);
      delta = found.delta;
      of_bias = found.sums.to(grad.scalar_type());
    } else {
      delta = map_to_new(fused(activation, negative_slope, Derivative::kBackwardOfOutput), grad, *output);
      of_bias = output_mask[2] ? at::sum(delta, {0}) : of_bias;
    }
  }
  // delta is wider than the factors if the layer has widened them.
  const auto product = [](const Tensor& delta, const Tensor& factor) {
    const Tensor wide = converted(factor, delta.scalar_type());
    check_factors(delta, wide);
    return converted(multiply(delta, wide), factor.scalar_type());
  };
  if (output_mask[0]) {
    TORCH_CHECK(weight, "linear_backward: the gradient of the input requires the weight");
    of_input = product(delta, *weight);
  }
  if (output_mask[1]) {
    TORCH_CHECK(input, "linear_backward: the gradient of the weight requires the input");
    of_weight = product(delta.t(), *input);
  }
  return {of_input, of_weight, of_bias};
}

}  // namespace
}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  m.impl("linear", torchnotes::linear);
  m.impl("linear_backward", torchnotes::linear_backward);
}
