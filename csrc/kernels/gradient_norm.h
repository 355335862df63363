#pragma once

#include "loops/array.h"

namespace torchnotes {

// The norm of all arrays taken as one, in float or double.
struct GradientNorm {
  const Array* arrays;
  int64_t count;
  c10::ScalarType type;
  void* norm;
};

}  // namespace torchnotes
