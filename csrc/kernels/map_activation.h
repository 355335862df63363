// The elementwise kernels of activations.
#pragma once

#include <tuple>
#include <type_traits>

#include "formulas/activations.h"
#include "kernels/activations.h"
#include "loops/map.h"
#include "loops/precision.h"

namespace torchnotes {
namespace {

// The arguments of a backward are (g, saved) or (g, y), those of the curvature (v, g, saved).
template <class Activation, Derivative derivative>
struct Map {
  Activation f;
  template <class... T>
  C10_HOST_DEVICE auto operator()(T... x) const {
    if constexpr (derivative == Derivative::kForward) {
      return f.forward(x...);
    } else if constexpr (derivative == Derivative::kBackward) {
      return f.backward(x...);
    } else if constexpr (derivative == Derivative::kBackwardOfOutput) {
      return backward_of_output(f, x...);
    } else {
      return f.curvature(x...);
    }
  }
};

template <class Activation>
concept Curved = requires(const Activation& f) { f.curvature(0.0f, 0.0f, 0.0f); };

template <class T, class Activation>
void map_activation(c10::Device device, const ActivationArguments& a) {
  const auto f = activation_with<Activation>(a.options.data());
  switch (a.derivative) {
    case Derivative::kForward:
      return map<T, 1>(device, Map<Activation, Derivative::kForward>{f}, a.operands);
    case Derivative::kBackwardOfOutput:
      if constexpr (saves_input<Activation>()) {
        return map<T, 2>(device, Map<Activation, Derivative::kBackwardOfOutput>{f}, a.operands);
      }
      [[fallthrough]];  // the output is what the activation saves
    case Derivative::kBackward:
      return map<T, 2>(device, Map<Activation, Derivative::kBackward>{f}, a.operands);
    case Derivative::kCurvature:
      if constexpr (Curved<Activation>) {
        map<T, 3>(device, Map<Activation, Derivative::kCurvature>{f}, a.operands);
      }
  }
}

template <bool only_rectifiers>
void map_chosen(c10::Device device, const ActivationArguments& a) {
  with_precision(a.operands.type, [&](auto zero) {
    using T = decltype(zero);
    const auto map_if_chosen = [&]<class Activation>(std::type_identity<Activation>) {
      if constexpr (!only_rectifiers || rectifies<Activation>()) {
        if (a.activation == number_of<Activation>()) {
          map_activation<T, Activation>(device, a);
        }
      }
    };
    [&]<class... Activation>(std::tuple<Activation...>*) {
      (map_if_chosen(std::type_identity<Activation>()), ...);
    }(static_cast<Activations*>(nullptr));
  });
}

}  // namespace
}  // namespace torchnotes
