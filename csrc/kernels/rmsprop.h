#pragma once

#include "loops/parameters.h"

namespace torchnotes {

struct RMSpropUpdate : Update {
  double alpha, eps, momentum, weight_decay;
  bool decoupled_weight_decay, centered, has_momentum_buffers;
};

}  // namespace torchnotes
