// Gaussian dropout: each element of x is multiplied by noise,
//
//   y = d x,   d ~ N(mean, sigma^2), independent               d = mean + sigma n, n a normal number (normal.h)
//   dy/dx = d                                                  the backward is the same function: backward(g) = d g
//
// As for dropout, d is regenerated from a key and the element's index, and all further derivatives are this function or
// 0. With mean 1 it is the noise of the notes; sigma^2 = p/(1 - p) is the variance of dropout at rate p. With mean 0 it
// is noise of standard deviation |x| sigma.
//
// Its effect on a squared error. With E[d_i d_k] = 1 + sigma^2 [i = k], for one output of weights w,
//
//   J = 1/2 (t - sum_k d_k w_k x_k)^2
//   E[J] = 1/2 (t - sum_k w_k x_k)^2 + 1/2 sigma^2 sum_k w_k^2 x_k^2
//   E[dJ/dw_i] = -x_i (t - w_i x_i (sigma^2 + 1) - sum_{k != i} w_k x_k)
//
// The result is the squared error plus an L2 penalty on the weights, scaled by the inputs.
#pragma once

#include "formulas/normal.h"

namespace torchnotes {

using GaussianDropout = Normal;

}  // namespace torchnotes
