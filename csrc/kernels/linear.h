#pragma once

#include <cstdint>

#include "loops/row_shape.h"

namespace torchnotes {

// out <- f(in + 1 b^T), where the columns of the matrix are neurons. The bias is in the precision of the arithmetic.
struct BiasAndActivation {
  RowShape shape;
  RowOperand out, in;
  const void* bias;
  int64_t activation;
  double negative_slope;
};

// The errors delta = g f'(z) from the output y, and their sum for every neuron.
struct LinearErrors {
  RowShape shape;
  RowOperand delta, g, y;
  void* sums;
  int64_t activation;
  double negative_slope;
};

}  // namespace torchnotes
