// The hyperbolic tangent of floats by a table of polynomials, for processors that look up 32 floats in registers.
//
// |x| + 5/8, which is in [5/8, 10), is divided into 32 intervals, eight for each power of two. Near the center c of an
// interval of |x|,
//
//   tanh(c + r) = (t0 + t1 r) + r^2 (t2 + t3 r + ... + t6 r^4)
//
// The centers are chosen so that t0 = tanh(c) and t1 = tanh'(c) are floats almost exactly (to 0.0006 ulp of the
// result). t2, ..., t6 are least-squares fits, in which each coefficient is rounded before the next is determined. The
// rounding error of t0 + t1 r is added to the last term, which is below a hundredth of the result. The error is below
// 0.507 ulp.
#pragma once

#ifdef CPU_CAPABILITY_AVX512

#include <ATen/cpu/vec/vec.h>

namespace torchnotes::detail {

// A column for each interval. Its number is the last two bits of the exponent of |x| + 5/8, followed by the first three
// of the mantissa: the first column is for |x| + 5/8 in [2, 2.25). The rows are c, t0, ..., t6.
// clang-format off
alignas(64) inline constexpr float kTanhPieces[8][32] = {
    {    1.4995477f,     1.7402712f,     2.0249612f,     2.2655585f,     2.4979439f,     2.7654767f,     2.9942243f,
         3.2671535f,     3.6327627f,     4.1007233f,     4.6207786f,      5.139695f,      5.613054f,     6.1267505f,
          6.608902f,     7.1188183f,      8.317766f,      8.317766f,           0.0f,    0.09673617f,    0.15343623f,
        0.21531676f,     0.2859723f,     0.3471739f,    0.44631118f,    0.57105494f,     0.6873178f,    0.80553526f,
         0.9474429f,     1.0554911f,      1.186242f,     1.3110536f},
    {    0.9050665f,     0.9402581f,     0.9657493f,     0.9786922f,     0.9865595f,    0.99210685f,    0.99499744f,
        0.99709874f,     0.9986025f,    0.99945164f,    0.99980617f,    0.99993134f,    0.99997336f,    0.99999046f,
        0.99999636f,     0.9999987f,     0.9999999f,     0.9999999f,           0.0f,    0.09643555f,    0.15224336f,
        0.21204987f,    0.27842352f,    0.33386683f,    0.41886207f,     0.5161336f,    0.59625614f,     0.6671199f,
         0.7386232f,    0.78393203f,     0.8294097f,    0.86454177f},
    {   0.18085465f,    0.11591473f,   0.067328244f,    0.04216163f,   0.026700333f,   0.015723988f,   0.009980091f,
       0.005794095f,   0.002793028f,  0.0010964248f,  3.8763104e-4f,  1.3732439e-4f,  5.3285843e-5f,  1.9073395e-5f,
      7.2717526e-6f,  2.6226023e-6f,  2.3841854e-7f,  2.3841854e-7f,           1.0f,     0.9907002f,    0.97682196f,
        0.95503485f,    0.92248034f,    0.88853294f,    0.82455456f,     0.7336061f,     0.6444786f,      0.554951f,
        0.45443577f,    0.38545057f,    0.31207952f,    0.25256753f},
    {  -0.16368549f,  -0.108989775f,   -0.06502219f,  -0.041263252f,  -0.026341392f,  -0.015599876f, -0.0099301245f,
     -0.0057772635f, -0.0027891276f, -0.0010958208f, -3.8755574e-4f, -1.3730468e-4f,  -5.328047e-5f,  -1.907175e-5f,
      -7.271167e-6f,  -2.622974e-6f, -2.3559792e-7f, -2.3635019e-7f,           0.0f,    -0.0955387f,   -0.14871465f,
       -0.20251499f,   -0.25684023f,    -0.2966517f,   -0.34537464f,    -0.3786388f,   -0.38427427f,    -0.3702189f,
       -0.33565688f,   -0.30216715f,   -0.25884193f,   -0.21835527f},
    {   0.08786187f,   0.063840486f,    0.04035225f,   0.026330158f,   0.017087374f,   0.010235406f,  0.0065538688f,
       0.003828967f,  0.0018541528f,   7.297264e-4f,  2.5826058e-4f,   9.151098e-5f,  3.5524597e-5f,  1.2714464e-5f,
       4.848479e-6f,  1.7674477e-6f,  1.7933462e-7f,  1.4415136e-7f,     -0.333333f,    -0.3210203f,   -0.30296582f,
       -0.27540138f,   -0.23598467f,   -0.19713607f,   -0.13018744f,   -0.04910701f,   0.014299643f,    0.06199588f,
        0.09644715f,   0.108393475f,     0.1106591f,    0.10458778f},
    { -0.024957953f,  -0.023693793f,  -0.017300105f,  -0.012015233f,  -0.008092811f, -0.0049546454f,   -0.00321912f,
     -0.0018967829f, -9.2172326e-4f, -3.6424614e-4f, -1.2904342e-4f, -4.6279616e-5f, -1.7962766e-5f,  -6.431989e-6f,
      -2.451759e-6f,  -8.694798e-7f, -3.0117057e-8f,  -4.465715e-8f,           0.0f,    0.06275693f,    0.09563856f,
        0.12581913f,    0.15126431f,    0.16464601f,     0.1696608f,    0.15158467f,    0.11950676f,    0.08207714f,
        0.04072602f,    0.01584093f,  -0.005400114f,  -0.017563038f},
    {-0.0027720616f,  0.0035333205f,  0.0047595645f,  0.0039173937f,   0.002861797f,  0.0018551763f,  0.0012257622f,
      7.5815764e-4f,  3.6762469e-4f,  1.4608144e-4f,   5.198822e-5f,  1.8826167e-5f,   7.051657e-6f,   2.571621e-6f,
       9.576772e-7f,           0.0f,   7.802324e-8f,           0.0f,    0.13303871f,    0.12328895f,   0.107204586f,
         0.0856193f,   0.059225563f,   0.031769503f, -0.0092022875f,   -0.04549493f,  -0.061611038f,   -0.06272938f,
      -0.052784644f,  -0.039337486f,  -0.025320519f,  -0.013949806f},
    {  0.007097207f,   0.001980848f,           0.0f, -7.2199176e-4f,           0.0f, -5.4047204e-4f,           0.0f,
               0.0f, -1.21921665e-4f, -4.5610494e-5f, -1.7082459e-5f,           0.0f,           0.0f,           0.0f,
               0.0f,           0.0f,           0.0f,           0.0f,           0.0f,           0.0f,           0.0f,
               0.0f,           0.0f,           0.0f,   -0.06133598f,   -0.04009795f,           0.0f,           0.0f,
               0.0f,           0.0f,           0.0f,           0.0f},
};
// clang-format on

C10_ALWAYS_INLINE at::vec::Vectorized<float> piecewise_tanh(const at::vec::Vectorized<float>& x) {
  using V = at::vec::Vectorized<float>;
  const V z = at::vec::clamp_max(x.abs(), V(9.02f));  // 1 from there on; NaN stays
  const __m512i interval = _mm512_srli_epi32(_mm512_castps_si512(z + V(0.625f)), 20);
  const auto of_interval = [&](int row) {
    const float (&pieces)[32] = kTanhPieces[row];
    return V(_mm512_permutex2var_ps(_mm512_load_ps(pieces), interval, _mm512_load_ps(pieces + 16)));
  };
  const V r = z - of_interval(0);
  const V t0 = of_interval(1), t1 = of_interval(2);
  const V sum = at::vec::fmadd(t1, r, t0);
  const V error = at::vec::fmadd(t1, r, t0 - sum);
  V p = of_interval(7);
  for (int row = 6; row >= 3; --row) {
    p = at::vec::fmadd(p, r, of_interval(row));
  }
  const V magnitude = sum + at::vec::fmadd(p, r * r, error);
  return magnitude | (x & V(-0.0f));
}

}  // namespace torchnotes::detail

#endif
