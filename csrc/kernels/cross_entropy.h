#pragma once

#include "loops/row_shape.h"

namespace torchnotes {

// What every pass over rows of logits needs. The targets are class indices or probabilities. A `statistic` is a double
// for logits in double, otherwise a float.
struct CrossEntropyRows {
  RowShape shape;
  RowOperand logits;
  RowOperand probabilities;      // without data if the targets are indices
  const int64_t* index;          // or null
  const void* weight;            // a statistic for each class, or null
  double target_share, uniform;  // 1 - eps and eps / C
  double z_loss, softcap;        // 0: none
  int64_t ignore_index;
  bool sharded;      // whether the logits are a shard of the classes, so that a target may lie in another shard
  void* statistics;  // of each row: its normalizer (two numbers) and, if there are three columns, m
  int64_t columns;
};

struct CrossEntropy {
  CrossEntropyRows rows;
  RowOperand losses;  // of the rows

  // Their sum or mean, if `loss` has data. Then `losses` and `weights`, a statistic for each row, are scratch memory.
  void* weights;
  bool mean, zero_if_empty;
  RowOperand loss;
  void* scale;  // a statistic: the factor of the gradient of each row
};

struct CrossEntropyGradient {
  CrossEntropyRows rows;
  RowOperand out;  // may be the logits
  RowOperand grad;
  const void* scale;  // of `grad`, or null
};

// H v, and dG.v/dg of each row, where G is the gradient of the unreduced losses, given g.
struct CrossEntropyCurvature {
  CrossEntropyRows rows;
  RowOperand out, along_grad, tangent, grad;
};

}  // namespace torchnotes
