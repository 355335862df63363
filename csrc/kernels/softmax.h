#pragma once

#include "loops/row_shape.h"

namespace torchnotes {

// The softmax of every row, or its logarithm.
struct Softmax {
  RowShape shape;
  RowOperand out, in;
  bool logarithm;
};

struct SoftmaxGradient {
  RowShape shape;
  RowOperand out, grad, output;
  bool logarithm;
};

}  // namespace torchnotes
