#pragma once

#include <cstdint>

#include "loops/row_shape.h"

namespace torchnotes {

// The channels of a tensor, as rows or as the columns of a matrix, and what belongs to each. Numbers without a type are
// in the precision of the arithmetic: double for double, otherwise float.
struct BatchNormChannels {
  RowShape shape;
  bool columns;
  const void *weight, *bias;  // or null
  double* statistics;         // the mean of every channel, then 1/std
  int64_t activation;
  double negative_slope;
  bool center_only;
};

struct BatchNormForward {
  BatchNormChannels channels;
  RowOperand x, out;
  bool training;  // whether to compute the statistics
  double eps;
  // Updated in training, otherwise the statistics to compute with, or null. The variance is unbiased.
  void *running_mean, *running_var;
  double momentum;
};

// The mean of every channel, then the variance.
struct BatchNormMoments {
  RowShape shape;
  bool columns;
  RowOperand x;
  double* results;
};

// What to compute from the gradient g and the reference r, the input or, if it was overwritten, the output.
enum class BatchNormPasses {
  kBoth,    // the gradients of the input and of the parameters
  kTotals,  // the sums over every channel only: sum d, then sum d x^
  kSecond,  // the gradient of the input only, given the means of d and d x^
};

struct BatchNormBackward {
  BatchNormChannels channels;
  BatchNormPasses passes;
  bool from_output;
  RowOperand out, g, r;
  double inverse_n;  // or 0 if the statistics are constants
  void *grad_weight, *grad_bias;
  double* totals;  // written or, for the second pass, the means
};

}  // namespace torchnotes
