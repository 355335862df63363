// logistic, tanh, exp, max and where for SIMD vectors: inlined, so that several vectors are in flight at once, and
// without a scalar copy. Double precision goes to at::vec (Sleef). See portable.h for the words and what they promise.
#pragma once

#include <ATen/cpu/vec/vec.h>

namespace torchnotes {

using at::vec::Vectorized;

template <class T>
inline Vectorized<T> where(const Vectorized<T>& mask, const Vectorized<T>& a, const Vectorized<T>& b) {
  return Vectorized<T>::blendv(b, a, mask);
}

template <class T>
inline Vectorized<T> exp(const Vectorized<T>& x) {
  return x.exp();
}

template <class T>
inline Vectorized<T> max(const Vectorized<T>& a, const Vectorized<T>& b) {
  return at::vec::maximum(a, b);
}

template <class T>
inline Vectorized<T> at_least(const Vectorized<T>& a, const Vectorized<T>& low) {
  return at::vec::clamp_min(a, low);
}

template <class T>
inline Vectorized<T> fma(const Vectorized<T>& a, const Vectorized<T>& b, const Vectorized<T>& c) {
  return at::vec::fmadd(a, b, c);
}

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

// 1 / (1 + e^-z) with e^-z = 2^n e^-r, n = round(-z / ln 2), r = z + n ln 2, |r| <= ln(2)/2, and e^-r = 1 - t, where
// t = r - r^2 q(r) and q is the minimax polynomial of relative error 2^-28. The denominator is rounded once,
//
//   1 + e^-z = (1 + 2^n) - 2^n t,     1 + 2^n exact for |n| < 24,
//
// and everything is scaled by 2^-64, so that it neither overflows nor stops short of 0. Below 1.6 ulp everywhere.
inline Vectorized<float> logistic(const Vectorized<float>& z) {
  using V = Vectorized<float>;
  const V c = at::vec::clamp(z, V(-105.0f), V(43.0f));  // 0 below, 1 above; NaN stays
  const V bits = fma(c, V(-1.44269504f), V(kRoundFloat - 64.0f));
  const V n = bits - V(kRoundFloat - 64.0f);
  const V r = fma(n, V(-2.12194440e-4f), fma(n, V(0.693359375f), c));  // ln 2 in two parts, n times the first exact
  V q = V(0.00138145395f);
  q = fma(q, r, V(-0.00836874545f));
  q = fma(q, r, V(0.041668389f));
  q = fma(q, r, V(-0.166665211f));
  q = fma(q, r, V(0.49999994f));
  const V minus_t = fma(r * r, q, V(0.0f) - r);
  const V scale = power_of_two(bits);
  const V one = V(0x1p-64f);
  return one / fma(scale, minus_t, one + scale);
}
inline Vectorized<double> logistic(const Vectorized<double>& z) {
  return Vectorized<double>(1.0) / (Vectorized<double>(1.0) + z.neg().exp());
}

namespace detail {

// tanh(z/2) = m / (m + 2), m = e^z - 1 = 2^n (e^r - 1) + (2^n - 1): no cancellation near 0. To 2^-37, |z| <= 20.
inline Vectorized<double> tanh_of_half(const Vectorized<double>& z) {
  using V = Vectorized<double>;
  const V t = fma(z, V(1.4426950408889634), V(kRoundDouble));
  const V r = fma(t - V(kRoundDouble), V(-0.6931471805599453), z);
  V q = V(2.4882575217175483e-05);
  q = fma(q, r, V(0.00019905010027525982));
  q = fma(q, r, V(0.0013888809158315966));
  q = fma(q, r, V(0.00833328888626653));
  q = fma(q, r, V(0.0416666669559643));
  q = fma(q, r, V(0.1666666675475165));
  q = fma(q, r, V(0.4999999999973514));
  const V scale = power_of_two(t);
  const V m = fma(scale, fma(r * r, q, r), scale - V(1.0));
  return m / (m + V(2.0));
}

}  // namespace detail

// Float tanh through double, which rounds it within 0.5002 ulp. From |x| = 10 on it is 1.
inline Vectorized<float> tanh(const Vectorized<float>& x) {
  using V = Vectorized<float>;
  using at::vec::VectorizedN;
  const VectorizedN<float, 1> z(at::vec::clamp(x + x, V(-20.0f), V(20.0f)));
  const auto wide = at::vec::convert<double, 2, float, 1>(z);
  const VectorizedN<double, 2> y(detail::tanh_of_half(wide[0]), detail::tanh_of_half(wide[1]));
  const V narrow = at::vec::convert<float, 1, double, 2>(y);
  return narrow | (x & V(-0.0f));  // -0 keeps its sign
}
inline Vectorized<double> tanh(const Vectorized<double>& x) { return x.tanh(); }

}  // namespace torchnotes
