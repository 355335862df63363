// The words a formula may use, meaning the same for float, double and SIMD vectors of them:
//   logistic(z) = 1 / (1 + e^-z)   tanh(z)   where(condition, a, b)   and the operators + - * / < <= > >=
// Comparisons of vectors give a mask of lanes, comparisons of scalars a bool; `where` takes either and never mixes in
// the side not chosen, so a NaN or infinity there does no harm. Comparisons with NaN are false.
#pragma once

#include <c10/macros/Macros.h>

#include <cmath>

#ifndef TORCHNOTES_SCALAR_ONLY  // defined for CUDA sources: no SIMD vectors there
#include "vector_math.h"
#endif

namespace torchnotes {

C10_HOST_DEVICE inline float logistic(float z) { return 1.0f / (1.0f + ::expf(-z)); }
C10_HOST_DEVICE inline double logistic(double z) { return 1.0 / (1.0 + ::exp(-z)); }

C10_HOST_DEVICE inline float tanh(float x) { return ::tanhf(x); }
C10_HOST_DEVICE inline double tanh(double x) { return ::tanh(x); }

template <class T>
C10_HOST_DEVICE inline T where(bool condition, T a, T b) {
  return condition ? a : b;
}

}  // namespace torchnotes
