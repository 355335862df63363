// What the operators of all elementwise losses share, on either device. Include it after the driver.
//
// A loss is returned with `scale`, the factor of the gradient of a reduced loss. It is a number on the device, so that
// the backward pass does not synchronize, and empty if there is no reduction (docs/decisions/elementwise-losses.md).
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/empty.h>

#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>

#include "broadcast.h"
#include "formulas/portable.h"
#include "formulas/weighted.h"

namespace torchnotes {
namespace {

inline bool reduces(int64_t reduction) { return reduction != at::Reduction::None; }

template <class scalar_t>
struct FinishLoss {
  bool mean;
  scalar_t* loss;
  double* scale;
  C10_HOST_DEVICE void operator()(const Weighted<double>& all) const {
    *loss = static_cast<scalar_t>(mean ? all.loss / all.weight : all.loss);
    *scale = mean ? 1 / all.weight : 1;
  }
};

// Wraps a formula and drops the weight in the mean.
template <class F>
struct LossOnly {
  F f;
  C10_HOST_DEVICE LossOnly operator()() const { return *this; }
  template <class... T>
  C10_HOST_DEVICE auto operator()(T... x) const {
    return f(x...).loss;
  }
};

// A backward formula for elements with a gradient of their own.
template <class F>
struct PerElementGradient {
  F f;
  C10_HOST_DEVICE F operator()() const { return f; }
};

// A factor with twice the precision of T, because multiplying by a rounded 1/n errs more than dividing by n. Both parts
// have the same sign and neither is 0, so that an infinite x cannot give infinity - infinity. Small factors are stored
// in units of a power of two, so that they are not rounded more coarsely before x makes the product large. This is a
// branch, equal for all elements, because multiplying by 1 instead was measurably slower.
template <class T>
struct Factor {
  T high, low, unit;
  bool small;
  C10_HOST_DEVICE friend T operator*(const Factor& g, const T& x) {
    const T product = fma(x, g.high, x * g.low);
    return g.small ? product * g.unit : product;
  }
};

// A backward formula for elements that share a gradient, which is read from the device.
template <class F, class scalar_t>
struct SharedGradient {
  using acc_t = at::opmath_type<scalar_t>;
  struct Formula {
    F f;
    acc_t high, low, unit;
    bool small;
    template <class... T>
    C10_HOST_DEVICE auto operator()(T... x) const {
      using V = std::common_type_t<T...>;
      return f(Factor<V>{V(high), V(low), V(unit), small}, x...);
    }
  };
  F f;
  const scalar_t* g;
  const double* scale;
  C10_HOST_DEVICE Formula operator()() const {
    using Limits = std::numeric_limits<acc_t>;
    constexpr double kEpsilon = Limits::epsilon(), kSmall = Limits::min() / kEpsilon;
    const double given = static_cast<double>(static_cast<acc_t>(*g));
    constexpr double kUnit = kEpsilon * kEpsilon * kEpsilon * kEpsilon;
    const bool small = abs(given * *scale) < kSmall;
    const double exact = (small ? given / kUnit : given) * *scale;
    const acc_t high = static_cast<acc_t>(exact * (1 - 2 * kEpsilon));
    const acc_t low = high - high == 0 ? static_cast<acc_t>(exact - static_cast<double>(high)) : high;
    return {f, high, low, static_cast<acc_t>(kUnit), small};
  }
};

template <class F, class... Operands>
std::tuple<at::Tensor, at::Tensor> loss(
    const F& f, int64_t reduction, const Elements& elements, const Operands&... operands
) {
  const at::Tensor& x = elements.tensor();
  at::Tensor result, scale;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "torchnotes::loss", [&] {
    if (reduces(reduction)) {
      result = at::empty({}, x.options());
      scale = at::empty({}, x.options().dtype(at::kDouble));
      const FinishLoss<scalar_t> finish{
          reduction == at::Reduction::Mean, result.mutable_data_ptr<scalar_t>(), scale.mutable_data_ptr<double>()
      };
      sum_elements(x.device(), f, finish, elements.size(), operands.template typed<scalar_t>()...);
    } else {
      result = empty_like_dense(x);
      scale = at::empty({0}, x.options().dtype(at::kDouble));
      scalar_t* const out = result.mutable_data_ptr<scalar_t>();
      map_elements(x.device(), LossOnly<F>{f}, elements.size(), out, operands.template typed<scalar_t>()...);
    }
  });
  return {result, scale};
}

template <class F, class... Operands>
at::Tensor loss_backward(
    const F& f,
    const at::Tensor& grad,
    const std::optional<at::Tensor>& scale,
    int64_t reduction,
    const Elements& elements,
    const Operands&... operands
) {
  const at::Tensor& x = elements.tensor();
  TORCH_CHECK(
      !reduces(reduction) || (grad.numel() == 1 && scale && scale->numel() == 1),
      "torchnotes: expected one number each for the gradient of a reduced loss and its scale, got a gradient of size ",
      grad.sizes()
  );
  const Operand g = reduces(reduction) ? Operand{grad, 1, 1} : elements.operand(grad);
  check_same_type(x, grad);
  at::Tensor result = empty_like_dense(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "torchnotes::loss_backward", [&] {
    scalar_t* const out = result.mutable_data_ptr<scalar_t>();
    const auto run = [&](const auto& make, const auto&... in) {
      map_elements(x.device(), make, elements.size(), out, in.template typed<scalar_t>()...);
    };
    if (reduces(reduction)) {
      const SharedGradient<F, scalar_t> make{f, grad.const_data_ptr<scalar_t>(), scale->const_data_ptr<double>()};
      run(make, operands...);
    } else {
      run(PerElementGradient<F>{f}, g, operands...);
    }
  });
  return result;
}

}  // namespace
}  // namespace torchnotes
