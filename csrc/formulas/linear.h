// A linear layer: m neurons, each with a row of weights in W and a bias in b, for n rows x of k numbers
//
//   z = x W^T + 1 b^T,   y = f(z)              z_ij = sum_l x_il W_jl + b_j
//
// The error delta = dL/dz of each weighted sum follows from g = dL/dy, and the gradients follow from it:
//
//   delta = g f'(z),   dL/dx = delta W,   dL/dW = delta^T x,   dL/db = delta^T 1
//
// dL/dx is the g of the layer before: delta^l = delta^(l+1) W * f'(z^l). The notes' row form has transposed weights,
// their column form has the rows of x as columns: delta^l = W^T delta^(l+1) * f'(z^l).
//
// f'(z) is a function of y = f(z) for every f here (activations.h), so that y is saved instead of z:
//
//   x and y are saved;   (g, y) -> delta and delta^T 1 in one pass
//
// For the second derivative let v_x, v_W, v_b be gradients for dL/dx, dL/dW and dL/db. They enter through V, the
// derivative of z along them, and with f'(z) = p(y):
//
//   v_x . dL/dx + v_W . dL/dW + v_b . dL/db = delta . V,   V = v_x W^T + x v_W^T + 1 v_b^T
//   for g: V p(y),   for y: V g p'(y),   for x: delta v_W,   for W: delta^T v_x
//
// Sums of delta are in double precision.
#pragma once

#include "formulas/portable.h"

namespace torchnotes {

// The constants of a neuron in the pass over its sums.
template <class T>
struct Bias {
  T b;
};

// delta^T 1 of one neuron.
template <class T>
struct DeltaSum {
  using Number = double;  // the type of each lane
  Wide<T> sum;

  static C10_HOST_DEVICE DeltaSum start() { return {widen(T(0))}; }
  C10_HOST_DEVICE void add(T delta) { sum = sum + widen(delta); }
  C10_HOST_DEVICE void merge(const DeltaSum& other) { sum = sum + other.sum; }
};

}  // namespace torchnotes
