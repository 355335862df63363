#pragma once

#include "kernels/elementwise_loss.h"

namespace torchnotes {

struct MSELoss : ElementwiseLoss {};
struct MSELossGradient : ElementwiseLossGradient {};

}  // namespace torchnotes
