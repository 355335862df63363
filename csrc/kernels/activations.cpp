#include "kernels/kernel.h"
#include "kernels/map_activation.h"

#ifndef TORCHNOTES_SCALAR_ONLY
#include "loops/cpu/stage.h"
#endif

namespace torchnotes {
namespace {

void activation(c10::Device device, const ActivationMap& a) { map_chosen</*only_rectifiers=*/false>(device, a); }

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
