#pragma once

#include "kernels/elementwise_loss.h"

namespace torchnotes {

struct PinballLoss : ElementwiseLoss {
  double smoothing;
};

struct PinballLossGradient : ElementwiseLossGradient {
  double smoothing;
};

}  // namespace torchnotes
