// Included by the kernels of either device, after the product and the elementwise and column drivers. What is fused is
// explained in docs/decisions/linear.md.
#pragma once

#include "../activations.h"
#include "../formulas/linear.h"
#include "../operands.h"
#include "../row_shape.h"

#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>

namespace torchnotes {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <class acc_t, class F>
struct Neurons {
  Neuron<F> neuron;
  const acc_t* bias;

  C10_HOST_DEVICE Bias<acc_t> formula(int64_t j) const { return {bias[j]}; }
  template <class T, class V>
  C10_HOST_DEVICE V value(const Bias<T>& b, V sum) const {
    return neuron(b, sum);
  }
};

template <class acc_t, class scalar_t, class F>
struct Deltas {
  Delta<F> delta;
  acc_t* sums;

  template <class T>
  C10_HOST_DEVICE DeltaSum<T> start(int64_t) const {
    return DeltaSum<T>::start();
  }
  static constexpr bool kBlocks = sizeof(scalar_t) == 2;
  template <class T>
  C10_HOST_DEVICE DeltaBlock<T> block() const {
    return {T(0)};
  }
  template <class T>
  C10_HOST_DEVICE T value(T g, T y) const {
    return delta(g, y);
  }
  template <class Sum, class T>
  C10_HOST_DEVICE void add(Sum& sum, T delta) const {
    sum.add(delta);
  }
  C10_HOST_DEVICE void finish(int64_t j, const DeltaSum<acc_t>& all) const { sums[j] = static_cast<acc_t>(all.sum); }
};

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

// y <- f(y + 1 b^T)
void add_bias_and_activate(Tensor& y, const Tensor& bias, int64_t activation, double negative_slope) {
  AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "torchnotes::linear", [&] {
    const Tensor b = bias.contiguous();
    with_activation(activation, negative_slope, [&](const auto& f) {
      const Neurons<scalar_t, std::decay_t<decltype(f)>> op{{f}, b.const_data_ptr<scalar_t>()};
      const RowShape shape = columns_of(y);
      const auto out = shape.each(y.mutable_data_ptr<scalar_t>());
      const auto in = shape.each(y.const_data_ptr<scalar_t>());
      if (shape.rows == 1) {
        map_rows(y.device(), shape, op, out, in);
      } else {
        map_columns(y.device(), shape, op, out, in);
      }
    });
  });
}

Tensor linear(
    const Tensor& input, const Tensor& weight, const OptionalTensor& bias, int64_t activation, double negative_slope
) {
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
  } else if (activation != kIdentity) {
    with_activation(activation, negative_slope, [&](const auto& f) { map_(f, y); });
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
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, y.scalar_type(), "torchnotes::linear_backward", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    with_activation(activation, negative_slope, [&](const auto& f) {
      const Deltas<acc_t, scalar_t, std::decay_t<decltype(f)>> op{{f}, result.sums.mutable_data_ptr<acc_t>()};
      const RowShape shape = columns_of(y);
      map_and_reduce_columns(
          y.device(),
          shape,
          op,
          shape.each(result.delta.mutable_data_ptr<scalar_t>()),
          shape.each(g.const_data_ptr<scalar_t>()),
          shape.each(y.const_data_ptr<scalar_t>())
      );
    });
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
    std::array<bool, 3> wanted
) {
  const at::AutoDispatchBelowADInplaceOrView below;
  Tensor delta = grad, of_input, of_weight, of_bias;
  if (activation == kIdentity) {
    of_bias = wanted[2] ? at::sum(grad, {0}) : of_bias;
  } else {
    TORCH_CHECK(output, "linear_backward: the gradient of an activation requires the output");
    if (wanted[2] && grad.size(-1) > 1) {
      const auto found = delta_and_sums(grad.contiguous(), output->contiguous(), activation, negative_slope);
      delta = found.delta;
      of_bias = found.sums.to(grad.scalar_type());
    } else {
      with_activation(activation, negative_slope, [&](const auto& f) {
        delta = map(Delta<std::decay_t<decltype(f)>>{f}, grad, *output);
      });
      of_bias = wanted[2] ? at::sum(delta, {0}) : of_bias;
    }
  }
  if (wanted[0]) {
    TORCH_CHECK(weight, "linear_backward: the gradient of the input requires the weight");
    check_factors(delta, *weight);
    of_input = multiply(delta, *weight);
  }
  if (wanted[1]) {
    TORCH_CHECK(input, "linear_backward: the gradient of the weight requires the input");
    const Tensor transposed = delta.t();
    check_factors(transposed, *input);
    of_weight = multiply(transposed, *input);
  }
  return {of_input, of_weight, of_bias};
}

}  // namespace
}  // namespace torchnotes

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  m.impl("linear", torchnotes::linear);
  m.impl("linear_backward", torchnotes::linear_backward);
}
