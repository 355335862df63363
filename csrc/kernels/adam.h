#pragma once

#include "loops/parameters.h"

namespace torchnotes {

struct AdamUpdate : Update {
  double beta1, beta2, eps, weight_decay;
  bool decoupled_weight_decay, amsgrad;
};

}  // namespace torchnotes
