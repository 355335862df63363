// Normal numbers in pairs (Box and Muller, 1958). For independent u, v, uniform in (0, 1] and [0, 1),
//
//   x = R cos 2 pi v,   y = R sin 2 pi v,   R^2 = -2 ln u
//
// are independent and normal: (x, y) has the density e^(-R^2/2) / (2 pi), and R^2/2 = -ln u is exponential. u has 31
// bits for float (so that |x| goes up to 6.7; with 24 bits it would end at 5.8) and 53 for double (8.7). With mean and
// std,
//
//   w = mean + std x is N(mean, std^2),    dw/dmean = 1,   dw/dstd = x
//
// The logarithm and the circle functions are polynomials in plain sums and products, rounded one by one, so that every
// processor computes the same bits:
//
//   ln u = e ln 2 + ln m,  u = 2^e m,  m in [1/sqrt 2, sqrt 2)          ln m = 2 s + s z P(z),  s = (m - 1)/(m + 1),
//                                                                       z = s^2 <= 0.0295
//   4 v = q + r,  q the nearest integer,  |r| <= 1/2                    q quarters of a turn, then
//   sin (pi/2 r) = r S(r^2),  cos (pi/2 r) = C(r^2)                     |pi/2 r| <= pi/4
//
// P, S and C are minimax polynomials; their relative errors are 2^-30, 2^-28 and 2^-34 for float, 2^-59, 2^-58 and
// 2^-64 for double. ln 2 is split into two parts; e times the first is exact.
#pragma once

#include "formulas/philox.h"

#include <cmath>
#include <cstring>

namespace torchnotes {

namespace detail {

template <class To, class From>
C10_HOST_DEVICE inline To bit_cast(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof(To));
  return y;
}

// c + d z + ...
template <class T>
C10_HOST_DEVICE inline T polynomial(T, T c) {
  return c;
}
template <class T, class... Rest>
C10_HOST_DEVICE inline T polynomial(T z, T c, Rest... rest) {
  return c + z * polynomial(z, rest...);
}

// u = 2^exponent mantissa, for normal numbers u.
C10_HOST_DEVICE inline int32_t exponent(float u) { return int32_t(bit_cast<uint32_t>(u) - 0x3F3504F3u) >> 23; }
C10_HOST_DEVICE inline int32_t exponent(double u) {
  return int32_t(uint32_t(bit_cast<uint64_t>(u) >> 32) - 0x3FE6A09Eu) >> 20;
}
C10_HOST_DEVICE inline float mantissa(float u, int32_t e) {
  return bit_cast<float>(bit_cast<uint32_t>(u) - (uint32_t(e) << 23));
}
C10_HOST_DEVICE inline double mantissa(double u, int32_t e) {
  return bit_cast<double>(bit_cast<uint64_t>(u) - (uint64_t(uint32_t(e)) << 52));
}

C10_HOST_DEVICE inline float log_polynomial(float z) { return polynomial(z, 0.666667764f, 0.399775368f, 0.298718675f); }
C10_HOST_DEVICE inline double log_polynomial(double z) {
  return polynomial(
      z,
      0.666666666666673447,
      0.399999999994142972,
      0.285714287424789716,
      0.222221985631318362,
      0.181835648831783025,
      0.153140354369125493,
      0.147961093361563829
  );
}

C10_HOST_DEVICE inline float times_log_2(float n, float addend) {
  return n * 0.693359375f + (n * -2.12194440e-4f + addend);
}
C10_HOST_DEVICE inline double times_log_2(double n, double addend) {
  return n * 0x1.62e42feep-1 + (n * 0x1.a39ef35793c76p-33 + addend);
}

// sin(pi/2 r) and cos(pi/2 r), z = r^2
C10_HOST_DEVICE inline float sine(float r, float z) {
  return r * polynomial(z, 1.57079633f, -0.645963643f, 0.0796815703f, -0.0046052795f);
}
C10_HOST_DEVICE inline double sine(double r, double z) {
  return r * polynomial(
                 z,
                 1.5707963267948966,
                 -0.645964097506244909,
                 0.0796926262460625137,
                 -0.00468175413261193554,
                 0.00016044115255987347,
                 -3.59864918582469201e-6,
                 5.63465217844215478e-8
             );
}
C10_HOST_DEVICE inline float cosine(float z) {
  return polynomial(z, 1.0f, -1.23370054f, 0.253669244f, -0.0208602859f, 0.000904015513f);
}
C10_HOST_DEVICE inline double cosine(double z) {
  return polynomial(
      z,
      1.0,
      -1.23370055013616982,
      0.253669507901046925,
      -0.0208634807633153676,
      0.000919260274224055098,
      -0.0000252020369851235464,
      4.71061545219396705e-7,
      -6.3218668383266838e-9
  );
}

C10_HOST_DEVICE inline float flip_sign(float x, uint32_t sign_bit) {
  return bit_cast<float>(bit_cast<uint32_t>(x) ^ sign_bit);
}
C10_HOST_DEVICE inline double flip_sign(double x, uint32_t sign_bit) {
  return bit_cast<double>(bit_cast<uint64_t>(x) ^ (uint64_t(sign_bit) << 32));
}

}  // namespace detail

// u in (0, 1], with all available bits: the closer to 0, the more of them matter.
C10_HOST_DEVICE inline float positive_fraction(Bits<float> bits) {
  return (float(int32_t(bits.word >> 1)) + 0.5f) * 0x1p-31f;
}
C10_HOST_DEVICE inline double positive_fraction(Bits<double> bits) { return fraction(bits) + 0x1p-54; }

// 4 v
C10_HOST_DEVICE inline float quarter_turns(Bits<float> bits) { return float(int32_t(bits.word >> 8)) * 0x1p-22f; }
C10_HOST_DEVICE inline double quarter_turns(Bits<double> bits) { return 4 * fraction(bits); }

// ln u, for normal numbers u.
template <class T>
C10_HOST_DEVICE inline T log_of(T u) {
  const int32_t e = detail::exponent(u);
  const T m = detail::mantissa(u, e);
  const T s = (m - T(1)) / (m + T(1));
  const T z = s * s;
  return detail::times_log_2(T(e), s * z * detail::log_polynomial(z) + (s + s));
}

template <class T>
C10_HOST_DEVICE inline Pair<T> normal_pair(Bits<T> a, Bits<T> b) {
  const T R = sqrt(T(-2) * log_of(positive_fraction(a)));
  const T quarters = quarter_turns(b);
  const int32_t q = int32_t(quarters + T(0.5));
  const T r = quarters - T(q);
  const T z = r * r;
  const T s = detail::sine(r, z), c = detail::cosine(z);
  const bool odd = q & 1;
  const T x = odd ? s : c, y = odd ? c : s;
  return {
      R * detail::flip_sign(x, uint32_t(q + 1) << 30 & 0x80000000u),
      R * detail::flip_sign(y, uint32_t(q) << 30 & 0x80000000u)
  };
}

struct Normal {
  double mean, std;
  template <class T>
  C10_HOST_DEVICE Pair<T> operator()(Bits<T> a, Bits<T> b) const {
    const Pair<T> pair = normal_pair(a, b);
    return {T(mean) + T(std) * pair.first, T(mean) + T(std) * pair.second};
  }
};

}  // namespace torchnotes
