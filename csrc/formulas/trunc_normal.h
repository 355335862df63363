// Normal numbers between a and b, by inverting their distribution function. With Phi the normal distribution function,
// alpha = (a - mean)/std and beta = (b - mean)/std,
//
//   F(x)  = (Phi((x - mean)/std) - Phi(alpha)) / (Phi(beta) - Phi(alpha))
//   F'(x) = density / (Phi(beta) - Phi(alpha))
//   x     = F^-1(u) = mean + std Phi^-1(Phi(alpha) + u (Phi(beta) - Phi(alpha))),    u uniform in (0, 1)
//
// Phi is accurate next to 0 but not next to 1: if the interval lies above the mean, its mirror image is used and `side`
// is -1. Phi^-1 is Wichura's (AS 241, 1988), accurate to 1e-16, in double for every dtype:
//
//   |p - 1/2| <= 0.425             (p - 1/2) A(r),  r = 0.425^2 - (p - 1/2)^2
//   else, r = sqrt(-ln min(p, 1 - p))     B(r - 1.6) for r <= 5, C(r - 5) beyond, with the sign of p - 1/2
//
// A, B and C are ratios of polynomials. As in torch the result is at least a and at most b.
#pragma once

#include "formulas/normal.h"

namespace torchnotes {

namespace detail {

C10_HOST_DEVICE inline double central_quantile(double r) {
  return polynomial(
             r,
             3.3871328727963666080,
             1.3314166789178437745e+2,
             1.9715909503065514427e+3,
             1.3731693765509461125e+4,
             4.5921953931549871457e+4,
             6.7265770927008700853e+4,
             3.3430575583588128105e+4,
             2.5090809287301226727e+3
         ) /
         polynomial(
             r,
             1.0,
             4.2313330701600911252e+1,
             6.8718700749205790830e+2,
             5.3941960214247511077e+3,
             2.1213794301586595867e+4,
             3.9307895800092710610e+4,
             2.8729085735721942674e+4,
             5.2264952788528545610e+3
         );
}

C10_HOST_DEVICE inline double tail_quantile(double r) {
  return polynomial(
             r,
             1.42343711074968357734,
             4.63033784615654529590,
             5.76949722146069140550,
             3.64784832476320460504,
             1.27045825245236838258,
             2.41780725177450611770e-1,
             2.27238449892691845833e-2,
             7.74545014278341407640e-4
         ) /
         polynomial(
             r,
             1.0,
             2.05319162663775882187,
             1.67638483018380384940,
             6.89767334985100004550e-1,
             1.48103976427480074590e-1,
             1.51986665636164571966e-2,
             5.47593808499534494600e-4,
             1.05075007164441684324e-9
         );
}

C10_HOST_DEVICE inline double far_tail_quantile(double r) {
  return polynomial(
             r,
             6.65790464350110377720,
             5.46378491116411436990,
             1.78482653991729133580,
             2.96560571828504891230e-1,
             2.65321895265761230930e-2,
             1.24266094738807843860e-3,
             2.71155556874348757815e-5,
             2.01033439929228813265e-7
         ) /
         polynomial(
             r,
             1.0,
             5.99832206555887937690e-1,
             1.36929880922735805310e-1,
             1.48753612908506148525e-2,
             7.86869131145613259100e-4,
             1.84631831751005468180e-5,
             1.42151175831644588870e-7,
             2.04426310338993978564e-15
         );
}

}  // namespace detail

// Phi^-1(p), for 0 < p < 1.
C10_HOST_DEVICE inline double normal_quantile(double p) {
  const double q = p - 0.5, outer = p < 0.5 ? p : 1 - p;
  const double r = sqrt(-log_of(outer));
  const double tail = r <= 5 ? detail::tail_quantile(r - 1.6) : detail::far_tail_quantile(r - 5);
  return abs(q) <= 0.425 ? q * detail::central_quantile(0.180625 - q * q) : (q < 0 ? -tail : tail);
}

struct TruncatedNormal {
  TruncatedNormal(double mean, double std, double a, double b) : mean(mean), a(a), b(b) {
    const double alpha = (a - mean) / std, beta = (b - mean) / std;
    const double side = alpha + beta > 0 ? -1 : 1;
    const double to = distribution(side > 0 ? beta : -alpha);
    from = distribution(side > 0 ? alpha : -beta);
    width = to - from;
    signed_std = side * std;
  }

  template <class T>
  C10_HOST_DEVICE Pair<T> operator()(Bits<T> x, Bits<T> y) const {
    return {T(between(x)), T(between(y))};
  }

 private:
  static double distribution(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }

  static C10_HOST_DEVICE double inner_fraction(Bits<float> bits) { return (double(bits.word) + 0.5) * 0x1p-32; }
  static C10_HOST_DEVICE double inner_fraction(Bits<double> bits) { return positive_fraction(bits); }

  template <class T>
  C10_HOST_DEVICE double between(Bits<T> bits) const {
    const double p = at_most(at_least(from + width * inner_fraction(bits), 0x1p-1022), 1 - 0x1p-53);  // neither 0 nor 1
    return at_least(at_most(mean + signed_std * normal_quantile(p), b), a);
  }

  double mean, signed_std, a, b, from, width;
};

}  // namespace torchnotes
