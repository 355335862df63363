#pragma once

#include "kernels/elementwise_loss.h"

namespace torchnotes {

struct BinaryCrossEntropyLoss : ElementwiseLoss {
  double label_smoothing, ignored;
};

struct BinaryCrossEntropyLossGradient : ElementwiseLossGradient {
  double label_smoothing, ignored;
};

}  // namespace torchnotes
