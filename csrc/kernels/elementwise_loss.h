// The arguments of all elementwise losses, and what their kernels share.
//
// A loss is returned with `scale`, the factor of the gradient of a reduced loss. It is a number on the device, so that
// the backward pass does not synchronize (docs/decisions/elementwise-losses.md).
#pragma once

#include "loops/broadcast.h"

namespace torchnotes {

struct ElementwiseLoss {
  ElementwiseInputs in;
  c10::ScalarType type;
  void* loss;     // of each element, or reduced
  double* scale;  // null if the loss is not reduced
  bool mean;
};

// The gradient by the first input, or by the second if the first is the gradient of the loss of each element.
struct ElementwiseLossGradient {
  ElementwiseInputs in;
  c10::ScalarType type;
  void* out;
  const void* grad;  // of a reduced loss, otherwise null
  const double* scale;
};

}  // namespace torchnotes
