// The cross-entropy of the softmax p of a row u of C logits against a target mass a_j per class
//
//   l = sum_j a_j (lse - u_j) + z m lse^2,    m = sum_j a_j,    p_j = e^(u_j - lse)
//
// where z is the weight of the z-loss, and, with class weights w and label smoothing eps,
//
//   a_j = w_j ((1 - eps) [j = t] + eps / C)     for a class index t      (m = 1 without weights)
//   a_j = w_j ((1 - eps) q_j + eps / C)         for probabilities q
//
// Its derivatives, with k = m (1 + 2 z lse):
//
//   dl/du_j         = k p_j - a_j                                        (y^ - y: the notes' y^ is p, their y is a)
//   d2l/du_i du_j   = k p_i ([i = j] - p_j) + 2 z m p_i p_j              (diag(y^) - y^ y^^T without z-loss)
//   dl/dq_j         = w_j (1 - eps) (lse - u_j + z lse^2)                (lse - u_j as (m - u_j) + ln s, as below)
//
// The logits may be capped first, u = s tanh(x / s):
//
//   c_j = du_j/dx_j = 1 - (u_j / s)^2,    c'_j = -2 (u_j / s^2) c_j;    without a cap u = x, c = 1, c' = 0
//
//   gradient   G_j     = g (k p_j - a_j) c_j
//   curvature  (H v)_j = c_j [g k p_j c_j v_j - g (k - 2 z m) d p_j] + g (k p_j - a_j) c'_j v_j
//   and        dG.v/dg = sum_j (k p_j - a_j) c_j v_j = k d - sum_j a_j c_j v_j,    d = sum_i p_i c_i v_i
//
// With a class index, (1 - eps) w_t concerns a single element, which is patched when the row is done. The other terms
// of a are added up with the row, sum a_j (lse - u_j) relative to the greatest logit so far, so that large logits do
// not cancel: with M = sum a_j and S = sum a_j (u_j - m),
//
//   sum a_j (lse - u_j) = M (lse - m) - S = M ln s - S;      where m rises to h, S <- S - M (h - m)
//
// A class of mass 0 contributes nothing to the loss and its derivatives, whatever its logit. If a class is masked by a
// logit of -inf, and q_j = 0 or w_j = 0, dl/dq_j is 0, not infinite or NaN as in torch, whose loss is NaN there.
//
// A row that is ignored has loss 0 and gradient 0, except for NaN logits, as in torch.
#pragma once

#include "formulas/softmax.h"

namespace torchnotes {

// u, c and c' of a logit x.
template <class T>
struct CappedLogit {
  T u, c, c_slope;
};

// What is known about the cap where code is compiled.
enum class Cap { kNone, kUnknown, kSome };

// With t = tanh(x / s), u = s t and c = 1 - t^2. Computing c from u / s would round t twice, and c is small.
template <Cap known>
struct Softcap {
  double cap;  // 0: none

  C10_HOST_DEVICE bool caps() const { return known == Cap::kUnknown ? cap != 0 : known == Cap::kSome; }
  template <class T>
  C10_HOST_DEVICE T operator()(T x) const {
    return caps() ? T(cap) * tanh(x / T(cap)) : x;
  }
  // If there is a cap.
  template <class T>
  C10_HOST_DEVICE CappedLogit<T> with_slopes(T x) const {
    const T t = tanh(x / T(cap)), c = fma(T(0) - t, t, T(1));
    return {T(cap) * t, c, T(-2 / cap) * t * c};
  }
};

template <class T>
struct MassedLogSumExp {
  LogSumExp<T> logits;
  T mass, shifted_sum;  // M and S

  static C10_HOST_DEVICE MassedLogSumExp start() { return {LogSumExp<T>::start(), T(0), T(0)}; }
  C10_HOST_DEVICE void add(T u, T a) {
    rebase(at_least(u, logits.max));
    logits.add(u);
    shifted_sum = fma(a, u - logits.max, shifted_sum);
    mass = mass + a;
  }
  C10_HOST_DEVICE void merge(MassedLogSumExp other) {
    const T high = at_least(other.logits.max, logits.max);
    rebase(high);
    other.rebase(high);
    logits.merge(other.logits);
    shifted_sum = shifted_sum + other.shifted_sum;
    mass = mass + other.mass;
  }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(MassedLogSumExp<Scalar>& result) const {
    MassedLogSumExp all = *this;
    logits.merge_lanes(result.logits);
    all.rebase(T(result.logits.max));
    result.shifted_sum = sum_of_lanes(all.shifted_sum);
    result.mass = sum_of_lanes(mass);
  }

 private:
  C10_HOST_DEVICE void rebase(T high) {
    shifted_sum = shifted_sum - where(mass == T(0), T(0), mass * (high - logits.max));
  }
};

// For logits whose maximum is known.
template <class T>
struct MassedLogSumExpGivenMax {
  LogSumExpGivenMax<T> logits;
  T mass, shifted_sum;

  template <class Scalar>
  static C10_HOST_DEVICE MassedLogSumExpGivenMax start(Maximum<Scalar> max) {
    return {LogSumExpGivenMax<T>::start(max), T(0), T(0)};
  }
  C10_HOST_DEVICE operator MassedLogSumExp<T>() const { return {logits, mass, shifted_sum}; }
  C10_HOST_DEVICE void add(T u, T a) {
    logits.add(u);
    shifted_sum = fma(a, u - logits.max, shifted_sum);
    mass = mass + a;
  }
  C10_HOST_DEVICE void merge(MassedLogSumExpGivenMax other) {
    logits.merge(other.logits);
    shifted_sum = shifted_sum + other.shifted_sum;
    mass = mass + other.mass;
  }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(MassedLogSumExpGivenMax<Scalar>& result) const {
    logits.merge_lanes(result.logits);
    result.shifted_sum = sum_of_lanes(shifted_sum);
    result.mass = sum_of_lanes(mass);
  }
};

// A row of which only the target has a mass.
template <class T>
C10_HOST_DEVICE inline MassedLogSumExp<T> with_mass(const LogSumExp<T>& all) {
  return {all, T(0), T(0)};
}
template <class T>
C10_HOST_DEVICE inline MassedLogSumExp<T> with_mass(const MassedLogSumExp<T>& all) {
  return all;
}

// The loss of a row, in double: there is little to compute and much to cancel.
template <class T>
C10_HOST_DEVICE inline Wide<T> cross_entropy_of_row(const MassedLogSumExp<T>& all, T a_t, T u_t, double z) {
  using W = Wide<T>;
  const W m = widen(all.logits.max), l = wide_log(all.logits.sum) + (m - m), a = widen(a_t), mass = widen(all.mass);
  const W at_target = where(a == W(0), W(0), a * ((m - widen(u_t)) + l));
  const W loss = at_target + (mass * l - widen(all.shifted_sum));
  return z == 0 ? loss : loss + W(z) * (a + mass) * (m + l) * (m + l);
}

// k, from the saved statistics of a row.
template <class T>
C10_HOST_DEVICE inline T total_mass(const Normalizer<T>& row, T m, double z) {
  using W = Wide<T>;
  const auto lse = [&] { return widen(row.max) - wide_log(row.inverse); };
  return z == 0 ? m : narrow<T>(widen(m) * (W(1) + W(2 * z) * lse()));
}

// What the gradient of a row needs.
template <class T>
struct GradientOfRow {
  Normalizer<T> scaled;  // scaled so that its softmax is g k p
  T g;
  T x_t, a_t;  // the logit, which the gradient may overwrite, and the mass at the target

  template <class V>
  C10_HOST_DEVICE V operator()(V u, V a) const {
    return fma(V(0) - V(g), a, scaled.softmax(u));
  }
  template <class V>
  C10_HOST_DEVICE V operator()(V u) const {
    return scaled.softmax(u);
  }
  // At the target, whose logit is u_t. The rounding error of g a_t would be the same in all rows.
  C10_HOST_DEVICE T at_target(T u_t) const {
    using W = Wide<T>;
    return narrow<T>(fma(W(0) - widen(g), widen(a_t), widen(scaled.softmax(u_t))));
  }
};

// d, and sum a_j c_j v_j without what the class index adds.
template <class T>
struct ProjectionOfRow {
  Normalizer<T> row;
  T dot_p, dot_a;

  C10_HOST_DEVICE void add(T u, T cv, T a) {
    dot_p = fma(row.softmax(u), cv, dot_p);
    dot_a = fma(a, cv, dot_a);
  }
  C10_HOST_DEVICE void merge(ProjectionOfRow other) {
    dot_p = dot_p + other.dot_p;
    dot_a = dot_a + other.dot_a;
  }
  template <class Scalar>
  C10_HOST_DEVICE void merge_lanes(ProjectionOfRow<Scalar>& result) const {
    result.dot_p = sum_of_lanes(dot_p);
    result.dot_a = sum_of_lanes(dot_a);
  }
};

template <class T>
struct CurvatureOfRow {
  T max;
  T of_p, of_d;  // times e^(u - m): g k p and g (k - 2 z m) d p. Products with p <= 1, so that g v does not overflow
  T g, x_t, v_t;

  // Without a cap.
  template <class V>
  C10_HOST_DEVICE V operator()(V u, V v) const {
    const V e = exp_nonpositive(u - V(max));
    return e * V(of_p) * v - e * V(of_d);
  }
  template <class V>
  C10_HOST_DEVICE V operator()(V u, V v, V a, V c, V c_slope) const {
    const V e = exp_nonpositive(u - V(max)), p = e * V(of_p);
    return c * (p * (c * v) - e * V(of_d)) + (p - V(g) * a) * c_slope * v;
  }
};

}  // namespace torchnotes
