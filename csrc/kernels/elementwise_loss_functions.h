// What the kernels of all elementwise losses share.
#pragma once

#include <limits>
#include <type_traits>

#include "formulas/portable.h"
#include "formulas/weighted.h"
#include "kernels/elementwise_loss.h"
#include "loops/elements.h"
#include "loops/precision.h"
#include "loops/row_shape.h"

namespace torchnotes {

struct FinishLoss {
  c10::ScalarType type;
  void* loss;
  double* scale;
  bool mean;
  C10_HOST_DEVICE void operator()(const Weighted<double>& all) const {
    with_element_type(type, [&](auto zero) {
      using Element = decltype(zero);
      *static_cast<Element*>(loss) = static_cast<Element>(mean ? all.loss / all.weight : all.loss);
    });
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
template <class F, class T>
struct SharedGradient {
  struct Formula {
    F f;
    T high, low, unit;
    bool small;
    template <class... In>
    C10_HOST_DEVICE auto operator()(In... x) const {
      using V = std::common_type_t<In...>;
      return f(Factor<V>{V(high), V(low), V(unit), small}, x...);
    }
  };
  F f;
  c10::ScalarType type;
  const void* grad;
  const double* scale;
  C10_HOST_DEVICE Formula operator()() const {
    using Limits = std::numeric_limits<T>;
    constexpr double kEpsilon = Limits::epsilon(), kSmall = Limits::min() / kEpsilon;
    constexpr double kUnit = kEpsilon * kEpsilon * kEpsilon * kEpsilon;
    const double given = with_element_type(type, [&](auto zero) {
      return static_cast<double>(static_cast<T>(*static_cast<const decltype(zero)*>(grad)));
    });
    const bool small = abs(given * *scale) < kSmall;
    const double exact = (small ? given / kUnit : given) * *scale;
    const T high = static_cast<T>(exact * (1 - 2 * kEpsilon));
    const T low = high - high == 0 ? static_cast<T>(exact - static_cast<double>(high)) : high;
    return {f, high, low, static_cast<T>(kUnit), small};
  }
};

// Calls f(n) with the number of inputs, one of `counts`, as a constant.
template <int... counts, class F>
void with_inputs(int n, const F& f) {
  ((n == counts ? f(std::integral_constant<int, counts>()) : void()), ...);
}

// counts: of the inputs that F may have.
template <int... counts, class F>
void elementwise_loss(c10::Device device, const F& f, const ElementwiseLoss& a) {
  with_precision(a.type, [&](auto zero) {
    using T = decltype(zero);
    with_inputs<counts...>(a.in.count, [&](auto n) {
      if (a.scale != nullptr) {
        sum_elements<T, n>(device, f, FinishLoss{a.type, a.loss, a.scale, a.mean}, a.in);
      } else {
        map_elements<T, n>(device, LossOnly<F>{f}, a.in, a.type, a.loss);
      }
    });
  });
}

template <int... counts, class F>
void elementwise_loss_gradient(c10::Device device, const F& f, const ElementwiseLossGradient& a) {
  with_precision(a.type, [&](auto zero) {
    using T = decltype(zero);
    if (a.grad != nullptr) {
      with_inputs<counts...>(a.in.count, [&](auto n) {
        map_elements<T, n>(device, SharedGradient<F, T>{f, a.type, a.grad, a.scale}, a.in, a.type, a.out);
      });
    } else {
      with_inputs<(counts + 1)...>(a.in.count, [&](auto n) {
        map_elements<T, n>(device, PerElementGradient<F>{f}, a.in, a.type, a.out);
      });
    }
  });
}

}  // namespace torchnotes
