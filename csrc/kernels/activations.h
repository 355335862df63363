#pragma once

#include <array>
#include <cstdint>

#include "loops/map_operands.h"

namespace torchnotes {

// A backward receives what the activation saves, or the output, where an operation ends with the activation.
enum class Derivative { kForward, kBackward, kBackwardOfOutput, kCurvature };

// An activation of formulas/activations.h, by number, or one of its derivatives.
struct ActivationArguments {
  int64_t activation;
  std::array<double, 2> options;
  Derivative derivative;
  MapOperands operands;
};

struct ActivationMap : ActivationArguments {};  // any activation
struct RectifierMap : ActivationArguments {};   // a rectifier

}  // namespace torchnotes
