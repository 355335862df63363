// The functions of portable.h for SIMD vectors. They are inlined, so that several vectors are in flight at once, and
// have no scalar tail. Double precision uses at::vec (Sleef). Measured in docs/decisions/vector-math.md.
#pragma once

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include "formulas/vector_tanh.h"

namespace torchnotes {

using at::vec::Vectorized;

template <class T>
inline Vectorized<T> where(const Vectorized<T>& mask, const Vectorized<T>& a, const Vectorized<T>& b) {
  return Vectorized<T>::blendv(b, a, mask);
}

template <class T>
inline Vectorized<T> sqrt(const Vectorized<T>& x) {
  return x.sqrt();
}

template <class T>
inline Vectorized<T> abs(const Vectorized<T>& x) {
  return x.abs();
}

template <class T>
inline Vectorized<T> at_least(const Vectorized<T>& a, const Vectorized<T>& low) {
  return at::vec::clamp_min(a, low);
}

template <class T>
inline Vectorized<T> at_most(const Vectorized<T>& a, const Vectorized<T>& high) {
  return at::vec::clamp_max(a, high);
}

template <class T>
inline Vectorized<T> fma(const Vectorized<T>& a, const Vectorized<T>& b, const Vectorized<T>& c) {
  return at::vec::fmadd(a, b, c);
}

template <class T>
inline T max_lane(const Vectorized<T>& v) {
  return at::vec::vec_reduce_all<T>([](auto a, auto b) { return at::vec::maximum(a, b); }, v);
}

template <class T>
inline T sum_of_lanes(const Vectorized<T>& v) {
  return at::vec::vec_reduce_all<T>([](auto a, auto b) { return a + b; }, v);
}

using WideFloat = at::vec::VectorizedN<double, 2>;

inline WideFloat widen(const Vectorized<float>& x) {
  return at::vec::convert<double, 2, float, 1>(at::vec::VectorizedN<float, 1>(x));
}
inline Vectorized<double> widen(const Vectorized<double>& x) { return x; }

template <class T>
inline T narrow(const WideFloat& x) {
  return at::vec::convert<float, 1, double, 2>(x);
}
template <class T>
inline T narrow(const Vectorized<double>& x) {
  return x;
}

inline WideFloat sqrt(const WideFloat& x) { return x.sqrt(); }

inline WideFloat where(const WideFloat& mask, const WideFloat& a, const WideFloat& b) {
  return WideFloat::blendv(b, a, mask);
}

inline WideFloat fma(const WideFloat& a, const WideFloat& b, const WideFloat& c) { return at::vec::fmadd(a, b, c); }

inline double sum_of_lanes(const WideFloat& v) { return sum_of_lanes(v[0] + v[1]); }

// Adding this constant to |t| < 2^21 (2^50) leaves the integer nearest to t in the low bits of the sum.
inline constexpr float kRoundFloat = 0x1.8p23f;
inline constexpr double kRoundDouble = 0x1.8p52;

// 2^n, where n is the integer in the low bits of t (see above) and 2^n is a normal number.
inline Vectorized<float> power_of_two(const Vectorized<float>& t) {
  const auto n = at::vec::cast<int32_t>(t) << Vectorized<int32_t>(23);
  return at::vec::cast<float>(n + Vectorized<int32_t>(127 << 23));
}
inline Vectorized<double> power_of_two(const Vectorized<double>& t) {
  const auto n = at::vec::cast<int64_t>(t) << Vectorized<int64_t>(52);
  return at::vec::cast<double>(n + Vectorized<int64_t>(1023LL << 52));
}

namespace detail {

// e^z = 2^n e^r = 2^n (1 + t) with n = round(z / ln 2), r = z - n ln 2, |r| <= ln(2)/2, and t = r + r^2 q(-r), where q
// is the minimax polynomial of relative error 2^-28. With sign = -1 the same for e^-z, with r = z + n ln 2, so that z
// need not be negated. Scaled by 2^shift, and as two factors:
struct ScaledExponential {
  Vectorized<float> scale;  // 2^(n + shift), which must be a normal number
  Vectorized<float> t;
};

template <int sign, int shift>
C10_ALWAYS_INLINE ScaledExponential exponential(const Vectorized<float>& z) {
  using V = Vectorized<float>;
  const V bits = fma(z, V(sign * 1.44269504f), V(kRoundFloat + shift));
  const V n = bits - V(kRoundFloat + shift);
  const V r = fma(n, V(sign * 2.12194440e-4f), fma(n, V(sign * -0.693359375f), z));  // ln 2 in two, n times one exact
  V q = V(0.00138145395f);
  q = fma(q, r, V(sign * 0.00836874545f));
  q = fma(q, r, V(0.041668389f));
  q = fma(q, r, V(sign * 0.166665211f));
  q = fma(q, r, V(0.49999994f));
  return {power_of_two(bits), fma(r * r, q, sign > 0 ? r : V(0.0f) - r)};
}

}  // namespace detail

// 1 / (1 + e^-z). The denominator is rounded once,
//
//   1 + e^-z = (1 + 2^n) + 2^n t,     1 + 2^n exact for |n| < 24,
//
// and everything is scaled by 2^-64, so that it neither overflows nor underflows too early. The error is below 1.6 ulp.
C10_ALWAYS_INLINE Vectorized<float> logistic(const Vectorized<float>& z) {
  using V = Vectorized<float>;
  const V c = at::vec::clamp(z, V(-105.0f), V(43.0f));  // 0 below, 1 above; NaN stays
  const auto [scale, t] = detail::exponential<-1, -64>(c);
  const V one = V(0x1p-64f);
  return one / fma(scale, t, one + scale);
}
inline Vectorized<double> logistic(const Vectorized<double>& z) {
  return Vectorized<double>(1.0) / (Vectorized<double>(1.0) + z.neg().exp());
}

namespace detail {

// 2^64 e^x, which is a normal number even where e^x is not.
C10_ALWAYS_INLINE Vectorized<float> large_exp_nonpositive(const Vectorized<float>& x) {
  const auto [scale, t] = exponential<1, 64>(at_least(x, Vectorized<float>(-105.0f)));  // 0 below; NaN stays
  return fma(scale, t, scale);
}

}  // namespace detail

C10_ALWAYS_INLINE Vectorized<float> exp_nonpositive(const Vectorized<float>& x) {
  return detail::large_exp_nonpositive(x) * Vectorized<float>(0x1p-64f);
}
inline Vectorized<double> exp_nonpositive(const Vectorized<double>& x) { return x.exp(); }

C10_ALWAYS_INLINE Vectorized<float> add_exp_nonpositive(const Vectorized<float>& sum, const Vectorized<float>& x) {
  return fma(detail::large_exp_nonpositive(x), Vectorized<float>(0x1p-64f), sum);
}
inline Vectorized<double> add_exp_nonpositive(const Vectorized<double>& sum, const Vectorized<double>& x) {
  return sum + x.exp();
}

// log(1 + e) = 2 artanh(e / (2 + e)) = s + s^3 Q(s^2) with e = e^z, s = e / d, d = 1 + e/2, s^2 <= 4/9, and Q the
// minimax polynomial of relative error 2^-31. The rounding errors of e, d and s are added to the small second term,
// using 1/d = 1 - s/2, so that only the last addition matters: below 0.6 ulp. e^z is scaled by 2^64, so that it passes
// through the denormal numbers to 0.
C10_ALWAYS_INLINE Vectorized<float> log1p_exp(const Vectorized<float>& z) {
  using V = Vectorized<float>;
  const V c = at_least(z, V(-105.0f));  // NaN stays
  const auto [scale, t] = detail::exponential<1, 64>(c);
  const V scaled = fma(scale, t, scale);
  const V e = scaled * V(0x1p-64f);
  const V e_error = fma(scale, t, scale - scaled) * V(0x1p-64f);
  const V d = fma(e, V(0.5f), V(1.0f));
  const V d_error = fma(e_error, V(0.5f), fma(e, V(0.5f), V(1.0f) - d));
  const V s = e / d;
  const V minus_s = V(0.0f) - s;
  const V remainder = fma(minus_s, d_error, fma(minus_s, d, e) + e_error);
  const V s_error = remainder * fma(s, V(-0.5f), V(1.0f));
  const V u = s * s;
  V q = V(0.000113400045f);
  q = fma(q, u, V(0.0004239565586f));
  q = fma(q, u, V(0.002233777968f));
  q = fma(q, u, V(0.01249990823f));
  q = fma(q, u, V(0.08333333415f));
  return s + fma(s * u, q, s_error);
}
inline Vectorized<double> log1p_exp(const Vectorized<double>& z) { return z.exp().log1p(); }

// ln x = n ln 2 + 2 artanh t with t = (y - 1) / (y + 1), where x = 2^n y and sqrt(1/2) <= y < sqrt(2), so that |t| <
// 0.18; artanh t = t + t^3 Q(t^2), in double precision. Q interpolates at Chebyshev's points, with a relative error of
// 2^-35.
inline WideFloat wide_log(const Vectorized<float>& x) {
  using V = Vectorized<float>;
  using Int = Vectorized<int32_t>;
  constexpr int32_t kSqrtHalf = 0x3f3504f3;  // its bits
  const Int from_root = at::vec::cast<int32_t>(x) - Int(kSqrtHalf);
  const WideFloat n = widen(at::vec::convert_to_fp_of_same_size<float>(from_root >> Int(23)));
  const WideFloat y = widen(at::vec::cast<float>((from_root & Int(0x7fffff)) + Int(kSqrtHalf)));
  const auto constant = [](double c) { return WideFloat(c); };
  const WideFloat t = (y - constant(1)) / (y + constant(1)), u = t * t;
  WideFloat q = constant(0.116652909691209469);
  q = fma(q, u, constant(0.142754082998557743));
  q = fma(q, u, constant(0.200000609384860007));
  q = fma(q, u, constant(0.333333332772258232));
  const WideFloat l = fma(n, constant(0.69314718055994531), (t + t) * fma(q, u, constant(1)));
  return l + widen(where(x > V(0.0f), V(0.0f), V(NAN)));
}
inline Vectorized<double> wide_log(const Vectorized<double>& x) { return x.log(); }

namespace detail {

// x P(x^2) / Q(x^2), minimax of relative error 2^-34.6 for |x| <= 9.02.
C10_ALWAYS_INLINE Vectorized<double> rational_tanh(const Vectorized<double>& x) {
  using V = Vectorized<double>;
  const V u = x * x;
  V p = V(3.6743992305013567e-11);
  V q = V(2.9511580066392066e-9);
  p = fma(p, u, V(1.1117566090096613e-7));
  q = fma(q, u, V(2.6038493760086859e-6));
  p = fma(p, u, V(4.2273693939245550e-5));
  q = fma(q, u, V(5.0083391686699427e-4));
  p = fma(p, u, V(4.4259479395686258e-3));
  q = fma(q, u, V(2.9201089420617856e-2));
  p = fma(p, u, V(0.14099208932683791));
  q = fma(q, u, V(0.47432542226152370));
  p = fma(p, u, V(0.99999999996383491));
  q = fma(q, u, V(1.0));
  return x * p / q;
}

}  // namespace detail

// Float tanh is computed in double, which rounds it within 0.502 ulp. It is 1 from |x| = 9.02 on. With AVX-512 a table
// is twice as fast.
C10_ALWAYS_INLINE Vectorized<float> tanh(const Vectorized<float>& x) {
#ifdef CPU_CAPABILITY_AVX512
  return detail::piecewise_tanh(x);
#else
  using at::vec::VectorizedN;
  const VectorizedN<float, 1> clamped(at::vec::clamp(x, Vectorized<float>(-9.02f), Vectorized<float>(9.02f)));
  const auto wide = at::vec::convert<double, 2, float, 1>(clamped);
  return at::vec::convert<float, 1, double, 2>(
      VectorizedN<double, 2>(detail::rational_tanh(wide[0]), detail::rational_tanh(wide[1]))
  );
#endif
}

// Double tanh |x| is e / (e + 2) with e = e^2|x| - 1. Sums, products and the quotient are pairs of a rounded number and
// its error, so that little more than the last addition matters: below 0.75 ulp. Without fused multiply-adds the C
// library is called instead.
//
//   e = 2^n p + (2^n - 1)   with n = round(2|x| / ln 2), r = 2|x| - n ln 2, p = e^r - 1 = r + r^2/2 (1 + r q(r))
//
// q is a least-squares fit, of absolute error 2^-54.
C10_ALWAYS_INLINE Vectorized<double> tanh(const Vectorized<double>& x) {
#ifdef CPU_CAPABILITY_DEFAULT
  return x.tanh();
#else
  using V = Vectorized<double>;
  const V zero(0.0), one(1.0), half(0.5), two(2.0), round(kRoundDouble), minus_ln2_low(-5.497923018708371e-14);
  const V z = two * at::vec::clamp_max(x.abs(), V(20.0));  // 1 from there on; NaN stays
  const V bits = fma(z, V(1.4426950408889634), round), n = bits - round;
  const V from_n = fma(n, V(-0.6931471805598903), z);  // exact
  const V r = fma(n, minus_ln2_low, from_n), r_error = fma(n, minus_ln2_low, from_n - r);
  const V h = half * r * r;
  const V first = r + h, first_error = (r - first + h) + r_error;
  V q(4.1831471406695035e-09);
  q = fma(q, r, V(5.0203735530534225e-08));
  q = fma(q, r, V(5.511454115356808e-07));
  q = fma(q, r, V(5.51145289465576e-06));
  q = fma(q, r, V(4.960317465728486e-05));
  q = fma(q, r, V(0.0003968253973325566));
  q = fma(q, r, V(0.002777777777776503));
  q = fma(q, r, V(0.01666666666665775));
  q = fma(q, r, V(0.08333333333333334));
  q = fma(q, r, V(0.33333333333333337));
  const V rest = h * r * q;
  const V p = first + rest, p_error = (first - p + rest) + first_error;
  const V scale = power_of_two(bits), constant = scale - one;
  const V e = fma(scale, p, constant), e_error = fma(scale, p_error, fma(scale, p, constant - e));
  const V d = e + two, d_error = (at_most(e, two) - (d - at_least(e, two))) + e_error;
  const V inverse = one / d, y = e * inverse, minus_y = zero - y;
  const V remainder = fma(minus_y, d_error, fma(minus_y, d, e) + e_error);
  return fma(remainder, inverse, y) | (x & V(-0.0));
#endif
}

}  // namespace torchnotes
