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

template <class Activation>
struct Forward {
  Activation f;
  template <class T>
  C10_HOST_DEVICE T operator()(T z) const {
    return f.forward(z);
  }
};

template <class Activation>
struct Backward {
  Activation f;
  template <class T>
  C10_HOST_DEVICE T operator()(T g, T saved) const {
    return f.backward(g, saved);
  }
};

template <class Activation>
struct BackwardOfOutput {
  Activation f;
  template <class T>
  C10_HOST_DEVICE T operator()(T g, T y) const {
    return f.backward_of_output(g, y);
  }
};

template <class Activation>
struct Curvature {
  Activation f;
  template <class T>
  C10_HOST_DEVICE T operator()(T v, T g, T saved) const {
    return f.curvature(v, g, saved);
  }
};

template <class Activation>
concept Curved = requires(const Activation& f) { f.curvature(0.0f, 0.0f, 0.0f); };

template <class T, class Activation>
void map_activation(c10::Device device, const ActivationMap& a) {
  const auto f = activation_with<Activation>(a.options.data());
  if (a.derivative == Derivative::kForward) {
    map<T, 1>(device, Forward<Activation>{f}, a.operands);
  } else if (a.derivative == Derivative::kBackward || a.derivative == Derivative::kBackwardOfOutput) {
    if constexpr (saves_input<Activation>()) {
      if (a.derivative == Derivative::kBackwardOfOutput) {
        map<T, 2>(device, BackwardOfOutput<Activation>{f}, a.operands);
        return;
      }
    }
    map<T, 2>(device, Backward<Activation>{f}, a.operands);
  } else if constexpr (Curved<Activation>) {
    map<T, 3>(device, Curvature<Activation>{f}, a.operands);
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
    stage.forward = kMapFunctions<T, Forward<Activation>, 1>.map;
    stage.backward = kMapFunctions<T, Backward<Activation>, 2>.map;
    stage.backward_of_output = stage.backward;
    if constexpr (saves_input<Activation>()) {
      stage.backward_of_output = kMapFunctions<T, BackwardOfOutput<Activation>, 2>.map;
    }
    stage.of_input = saves_input<Activation>() || rectifies<Activation>();
  });
  return stage;
}

template Stage<float> stage_of(int64_t activation, double negative_slope);
template Stage<double> stage_of(int64_t activation, double negative_slope);

#endif

}  // namespace torchnotes
