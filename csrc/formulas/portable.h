// The functions a formula may use. They mean the same for float, double and SIMD vectors of them:
//   logistic(z) = 1 / (1 + e^-z)   tanh(z)   sqrt(x)   abs(x)   where(condition, a, b)
//   at_least(a, low) = low where a < low, else a   at_most(a, high) = high where a > high, else a
//   exp_nonpositive(x) = e^x, add_exp_nonpositive(s, x) = s + e^x, and log1p_exp(x) = log(1 + e^x), for x <= 0
//   widen(x): x in double precision, a Wide<T>, which supports + - *, fma, == and where; narrow<T>(wide) rounds it
//   wide_log(x) = ln x as a Wide<T>, for normal x > 0; otherwise it is not finite
//   fma(a, b, c) = a b + c, rounded once if the processor can, and the operators + - * / < <= > >=
//   max_lane(v) and sum_of_lanes(v), for SIMD vectors only
// Comparing vectors gives a mask of lanes, comparing scalars a bool; `where` accepts either. The side not chosen has no
// effect, even if it is NaN or infinite. Comparisons with NaN are false.
#pragma once

#include <c10/macros/Macros.h>

#include <cmath>
#include <utility>

#ifndef TORCHNOTES_SCALAR_ONLY  // defined for CUDA sources, which have no SIMD vectors
#include "formulas/vector_math.h"
#endif

namespace torchnotes {

C10_HOST_DEVICE inline float logistic(float z) { return 1.0f / (1.0f + ::expf(-z)); }
C10_HOST_DEVICE inline double logistic(double z) { return 1.0 / (1.0 + ::exp(-z)); }

C10_HOST_DEVICE inline float tanh(float x) { return ::tanhf(x); }
C10_HOST_DEVICE inline double tanh(double x) { return ::tanh(x); }

C10_HOST_DEVICE inline float sqrt(float x) { return ::sqrtf(x); }
C10_HOST_DEVICE inline double sqrt(double x) { return ::sqrt(x); }

C10_HOST_DEVICE inline float log1p_exp(float z) { return ::log1pf(::expf(z)); }
C10_HOST_DEVICE inline double log1p_exp(double z) { return ::log1p(::exp(z)); }

C10_HOST_DEVICE inline float abs(float x) { return ::fabsf(x); }
C10_HOST_DEVICE inline double abs(double x) { return ::fabs(x); }

C10_HOST_DEVICE inline float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
C10_HOST_DEVICE inline double fma(double a, double b, double c) { return ::fma(a, b, c); }

C10_HOST_DEVICE inline float at_least(float a, float low) { return a < low ? low : a; }
C10_HOST_DEVICE inline double at_least(double a, double low) { return a < low ? low : a; }

C10_HOST_DEVICE inline float at_most(float a, float high) { return a > high ? high : a; }
C10_HOST_DEVICE inline double at_most(double a, double high) { return a > high ? high : a; }

C10_HOST_DEVICE inline float exp_nonpositive(float x) { return ::expf(x); }
C10_HOST_DEVICE inline double exp_nonpositive(double x) { return ::exp(x); }

C10_HOST_DEVICE inline float add_exp_nonpositive(float sum, float x) { return sum + ::expf(x); }
C10_HOST_DEVICE inline double add_exp_nonpositive(double sum, double x) { return sum + ::exp(x); }

C10_HOST_DEVICE inline double widen(double x) { return x; }
template <class T>
C10_HOST_DEVICE inline T narrow(double x) {
  return static_cast<T>(x);
}
C10_HOST_DEVICE inline double wide_log(double x) { return ::log(x); }

template <class T>
using Wide = decltype(widen(std::declval<T>()));

template <class T>
C10_HOST_DEVICE inline T where(bool condition, T a, T b) {
  return condition ? a : b;
}

}  // namespace torchnotes
