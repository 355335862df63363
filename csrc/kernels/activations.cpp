#include "kernels/activations.h"

#include <tuple>
#include <utility>

#include "formulas/activations.h"
#include "kernels/kernel.h"
#include "loops/map.h"
#include "loops/precision.h"

#ifndef TORCHNOTES_SCALAR_ONLY
#include "loops/cpu/stage.h"
#endif

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
void map_activation(c10::Device device, const ActivationMap& a) {
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

void activation(c10::Device device, const ActivationMap& a) {
  with_precision(a.operands.type, [&](auto zero) {
    [&]<size_t... i>(std::index_sequence<i...>) {
      using Numbers = std::tuple_element_t<0, std::tuple<decltype(zero)>>;
      ((a.activation == int64_t(i) ? map_activation<Numbers, std::tuple_element_t<i, Activations>>(device, a) : void()),
       ...);
    }(std::make_index_sequence<std::tuple_size_v<Activations>>());
  });
}

const RegisterKernel<ActivationMap> kActivation(activation);

}  // namespace

#ifndef TORCHNOTES_SCALAR_ONLY

template <class T>
Stage<T> stage_of(int64_t activation, double negative_slope) {
  Stage<T> stage{};
  with_fused_activation(activation, negative_slope, [&]<class Activation>(const Activation& f) {
    if constexpr (!std::is_empty_v<Activation>) {
      std::memcpy(stage.options, &f, sizeof(f));
    }
    stage.forward = kMapFunctions<T, Map<Activation, Derivative::kForward>, 1>.map;
    stage.backward = kMapFunctions<T, Map<Activation, Derivative::kBackward>, 2>.map;
    stage.backward_of_output = stage.backward;
    if constexpr (saves_input<Activation>()) {
      stage.backward_of_output = kMapFunctions<T, Map<Activation, Derivative::kBackwardOfOutput>, 2>.map;
    }
    stage.of_input = saves_input<Activation>() || rectifies<Activation>();
  });
  return stage;
}

template Stage<float> stage_of(int64_t activation, double negative_slope);
template Stage<double> stage_of(int64_t activation, double negative_slope);

#endif

}  // namespace torchnotes
