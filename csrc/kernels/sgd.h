#pragma once

#include "loops/parameters.h"

namespace torchnotes {

struct SGDUpdate : Update {
  double momentum, dampening, weight_decay;
  bool nesterov, first, has_momentum_buffers;
};

}  // namespace torchnotes
