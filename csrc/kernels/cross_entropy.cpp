#include "formulas/cross_entropy.h"

#include <algorithm>
#include <type_traits>

#include "formulas/weighted.h"
#include "kernels/cross_entropy.h"
#include "kernels/kernel.h"
#include "loops/precision.h"
#include "loops/rows.h"

namespace torchnotes {
namespace {

// The targets of the rows: class indices, or none if the targets are class probabilities. If the logits are a shard of
// the classes, the normalizer comes from all shards, and a target may lie in another shard.
template <class T>
struct Targets {
  const int64_t* index;
  const T* weight;
  int64_t classes, ignore_index;
  T share;  // 1 - eps
  bool sharded;

  C10_HOST_DEVICE bool counts(int64_t row) const { return !index || index[row] != ignore_index; }
  // The class of a row, or -1.
  C10_HOST_DEVICE int64_t class_of(int64_t row) const {
    const int64_t c = index ? index[row] : -1;
    return c >= 0 && c < classes && c != ignore_index ? c : -1;
  }
  C10_HOST_DEVICE bool has_class(int64_t row) const { return class_of(row) >= 0; }
  // The weight of a row in the mean. An invalid class that was not refused before makes the row NaN.
  C10_HOST_DEVICE T weight_of(int64_t row) const {
    if (!index || !counts(row)) {
      return T(counts(row));
    }
    const int64_t c = class_of(row);
    const T invalid = sharded ? T(0) : T(NAN);
    return c < 0 ? invalid : weight ? weight[c] : T(1);
  }
  C10_HOST_DEVICE T at(const RowOperand& x, int64_t row) const {
    return has_class(row) ? x.read<T>(row, index[row]) : T(0);
  }
  // (1 - eps) w_t
  template <class V>
  C10_HOST_DEVICE V mass(V w_t) const {
    return index ? V(share) * w_t : V(0);
  }
};

// What depends on the target of a row: whether the row counts (1 or 0), its weight, and the logit at the target.
template <class T>
struct Target {
  T counts, weight, x_t;
};

// What every pass over the rows knows. The mass that a class has whatever the class index is
//   w (share q + uniform)    given a probability q or a weight w, or both
//   uniform                  otherwise
template <class T, Cap cap>
struct LogitRows {
  Targets<T> targets;
  RowOperand x;
  Softcap<cap> softcap;
  double z;
  T uniform;
  bool probable, weighted;
  T* statistics;
  int64_t columns;

  explicit LogitRows(const CrossEntropyRows& a)
      : targets{
            a.index,
            static_cast<const T*>(a.weight),
            a.shape.length,
            a.ignore_index,
            static_cast<T>(a.target_share),
            a.sharded
        },
        x(a.logits),
        softcap{a.softcap},
        z(a.z_loss),
        uniform(static_cast<T>(a.uniform)),
        probable(a.probabilities.data),
        weighted(a.weight && (probable || uniform != 0)),
        statistics(static_cast<T*>(a.statistics)),
        columns(a.columns) {}

  template <class V>
  C10_HOST_DEVICE V mass() const {
    return V(uniform);
  }
  template <class V>
  C10_HOST_DEVICE V mass(V q, V w) const {
    const V a = probable ? fma(V(targets.share), q, V(uniform)) : V(uniform);
    return weighted ? w * a : a;
  }
  // a_t, or 0 without a class index
  C10_HOST_DEVICE T mass_at_target(int64_t row) const {
    if (!targets.has_class(row)) {
      return T(0);
    }
    const T w = targets.weight ? targets.weight[targets.index[row]] : T(1);
    return w * uniform + targets.mass(w);
  }
  C10_HOST_DEVICE Normalizer<T> normalizer_of(int64_t row) const {
    return {statistics[row * columns], statistics[row * columns + 1]};
  }
  C10_HOST_DEVICE T mass_of(int64_t row) const {
    return columns == 3 ? statistics[row * columns + 2] : targets.mass(targets.weight_of(row));
  }

  C10_HOST_DEVICE Target<T> target_of(int64_t row) const {
    return {T(targets.counts(row)), targets.weight_of(row), targets.at(x, row)};
  }
  // The targets of n neighboring rows.
  template <class V>
  Target<V> targets_of(int64_t row, int64_t n) const {
    bool alike = targets.weight == nullptr;  // all rows count, and have the weight 1
    const auto class_at = [&](int64_t i) {
      const int64_t c = targets.class_of(row + i);
      alike = alike && c >= 0;
      return c;
    };
    const V x_t = elements_of_neighbors<V>(x, row, n, class_at);
    if (alike) {
      return {V(1), V(1), x_t};
    }
    T counts[V::size()] = {}, weight[V::size()] = {};
    for (int64_t i = 0; i < n; ++i) {
      counts[i] = T(targets.counts(row + i));
      weight[i] = targets.weight_of(row + i);
    }
    return {V::loadu(counts), V::loadu(weight), x_t};
  }
};

// `massed`: whether other classes than the target may have a mass.
template <class T, Cap cap, bool massed>
struct LossOfRows : LogitRows<T, cap> {
  static constexpr bool kShortRows = cap == Cap::kNone;
  static constexpr bool kWidened = cap != Cap::kNone && massed;
  static constexpr bool kMixesTypes = massed;

  RowOperand losses;
  T* weights;  // or null

  template <class V>
  using State = std::conditional_t<massed, MassedLogSumExp<V>, LogSumExp<V>>;
  template <class V>
  using StateGivenMax = std::conditional_t<massed, MassedLogSumExpGivenMax<V>, LogSumExpGivenMax<V>>;

  template <class V>
  C10_HOST_DEVICE State<V> start(int64_t) const {
    return State<V>::start();
  }
  template <class V>
  Maximum<V> prescan() const {
    return Maximum<V>::start();
  }
  template <class V, class... Q>
  void scan(Maximum<V>& prescan, V x, Q...) const {
    prescan.add(x);
  }
  // Capping preserves the order.
  template <class V, class Scalar>
  StateGivenMax<V> start(int64_t, Maximum<Scalar> max) const {
    return StateGivenMax<V>::start(Maximum<V>{this->softcap(V(max.value))});
  }
  template <class Any, class V, class... Q>
  C10_HOST_DEVICE void add(Any& state, V x, Q... q) const {
    if constexpr (massed) {
      state.add(this->softcap(x), this->template mass<V>(q...));
    } else {
      state.add(this->softcap(x));
    }
  }
  C10_HOST_DEVICE void finish(int64_t row, const State<T>& all) const {
    const Results<T> of_row = results(with_mass(all), this->target_of(row));
    write_statistics(row, of_row);
    losses.write(row, 0, of_row.loss);
    if (weights) {
      weights[row] = of_row.weight;
    }
  }
  template <class V>
  void finish_lanes(int64_t row, int64_t n, const LogSumExp<V>& all) const {
    finish_lanes(row, n, with_mass(all));
  }
  template <class V>
  C10_NOINLINE void finish_lanes(int64_t row, int64_t n, const MassedLogSumExp<V>& all) const {
    const Results<V> of_rows = results(all, this->template targets_of<V>(row, n));
    if (this->columns == 2 && n == V::size()) {
      T* const statistics = this->statistics + row * 2;
      const auto [low, high] = interleave2(of_rows.row.max, of_rows.row.inverse);
      low.store(statistics);
      high.store(statistics + V::size());
    } else {
      Results<T> lanes[V::size()];
      to_scalars<V>(of_rows, lanes);
      for (int64_t i = 0; i < n; ++i) {
        write_statistics(row + i, lanes[i]);
      }
    }
    if (losses.type == c10::CppTypeToScalarType<T>::value && losses.row_stride == 1) {
      store_lanes(of_rows.loss, static_cast<T*>(losses.data) + row, n);
    } else {
      T loss[V::size()];
      of_rows.loss.store(loss);
      for_elements_of_neighbors(
          losses,
          row,
          n,
          [](int64_t) { return 0; },
          [&](int64_t i, auto& to) { to = static_cast<std::remove_cvref_t<decltype(to)>>(loss[i]); }
      );
    }
    if (weights) {
      of_rows.weight.store(weights + row, n);
    }
  }

 private:
  template <class V>
  struct Results {
    Normalizer<V> row;
    V mass, loss, weight;
  };
  template <class V>
  C10_HOST_DEVICE Results<V> results(const MassedLogSumExp<V>& all, const Target<V>& target) const {
    const V a_t = this->targets.mass(target.weight);
    const V loss = narrow<V>(cross_entropy_of_row(all, a_t, this->softcap(target.x_t), this->z));
    return {normalizer(all.logits), all.mass + a_t, where(target.counts == V(0), V(0), loss), target.weight};
  }
  C10_HOST_DEVICE void write_statistics(int64_t row, const Results<T>& of_row) const {
    T* const statistics = this->statistics + row * this->columns;
    statistics[0] = of_row.row.max;
    statistics[1] = of_row.row.inverse;
    if (this->columns == 3) {
      statistics[2] = of_row.mass;
    }
  }
};

// The sum or the mean of the losses, and the factor of its gradient.
template <class T>
struct ReduceLosses {
  static constexpr bool kWidened = true;

  bool mean, zero_if_empty;
  RowOperand loss;
  T* scale;

  template <class V>
  C10_HOST_DEVICE WideWeighted<V> start(int64_t) const {
    return {widen(V(0)), widen(V(0))};
  }
  template <class V>
  C10_HOST_DEVICE void add(WideWeighted<V>& state, V loss, V weight) const {
    state.add(loss, weight);
  }
  C10_HOST_DEVICE void finish(int64_t, const WideWeighted<T>& all) const {
    const bool empty = mean && zero_if_empty && all.weight == 0;
    loss.write(0, 0, static_cast<T>(empty ? 0 : mean ? all.loss / all.weight : all.loss));
    *scale = static_cast<T>(empty ? 0 : mean ? 1 / all.weight : 1);
  }
};

template <class T, Cap cap, bool massed>
struct GradientOfRows : LogitRows<T, cap> {
  static constexpr bool kShortRows = cap == Cap::kNone;
  static constexpr bool kWidened = cap != Cap::kNone && massed;
  static constexpr bool kMixesTypes = massed;

  RowOperand out, grad;
  const T* scale;  // or null

  C10_HOST_DEVICE GradientOfRow<T> formula(int64_t row) const {
    return formula(this->normalizer_of(row), this->mass_of(row), this->target_of(row), grad.template read<T>(row, 0));
  }
  template <class V>
  C10_NOINLINE GradientOfRow<V> formula_lanes(int64_t row, int64_t n) const {
    const Target<V> target = this->template targets_of<V>(row, n);
    const bool shared = grad.row_stride == 0;  // by all rows
    const V g = shared ? V(grad.template read<T>(row, 0)) : first_elements<V>(grad, row, n);
    if (this->columns == 2 && n == V::size()) {
      const T* const statistics = this->statistics + row * 2;
      const auto [max, inverse] = deinterleave2(V::loadu(statistics), V::loadu(statistics + V::size()));
      return formula(Normalizer<V>{max, inverse}, this->targets.mass(target.weight), target, g);
    }
    alignas(64) T max[V::size()] = {}, inverse[V::size()] = {}, m[V::size()] = {};
    for (int64_t i = 0; i < n; ++i) {
      const Normalizer<T> normalizer = this->normalizer_of(row + i);
      max[i] = normalizer.max;
      inverse[i] = normalizer.inverse;
      m[i] = this->columns == 3 ? this->mass_of(row + i) : T(0);
    }
    const V mass = this->columns == 3 ? V::loadu(m) : this->targets.mass(target.weight);
    return formula(Normalizer<V>{V::loadu(max), V::loadu(inverse)}, mass, target, g);
  }
  template <class F, class V, class... Q>
  C10_HOST_DEVICE V value(const F& f, V x, Q... q) const {
    if constexpr (massed) {
      return gradient(f, x, this->template mass<V>(q...));
    } else {
      return gradient(f, x);
    }
  }
  C10_HOST_DEVICE void patch_target(int64_t row, const GradientOfRow<T>& f) const {
    if (this->targets.has_class(row)) {
      out.write(row, this->targets.index[row], at_target(f));
    }
  }
  template <class V>
  C10_NOINLINE void patch_lanes(int64_t row, int64_t n, const GradientOfRow<V>& f) const {
    T at_targets[V::size()];
    at_target(f).store(at_targets);
    const auto class_at = [&](int64_t i) { return this->targets.class_of(row + i); };
    for_elements_of_neighbors(out, row, n, class_at, [&](int64_t i, auto& to) {
      to = static_cast<std::remove_cvref_t<decltype(to)>>(at_targets[i]);
    });
  }

 private:
  template <class V>
  C10_HOST_DEVICE GradientOfRow<V> formula(const Normalizer<V>& row, V m, const Target<V>& target, V grad) const {
    const V g = where(target.counts == V(0), V(0), grad * V(scale ? *scale : T(1)));
    const V a_t = target.weight * V(this->uniform) + this->targets.mass(target.weight);
    return {{row.max, g * total_mass(row, m, this->z) * row.inverse}, g, target.x_t, a_t};
  }
  template <class V>
  C10_HOST_DEVICE V at_target(const GradientOfRow<V>& f) const {
    if (this->softcap.caps()) {
      const CappedLogit<V> of = this->softcap.with_slopes(f.x_t);
      return f.at_target(of.u) * of.c;
    }
    return f.at_target(f.x_t);
  }
  template <class F, class V, class... A>
  C10_HOST_DEVICE V gradient(const F& f, V x, A... mass) const {
    if (this->softcap.caps()) {
      const CappedLogit<V> of = this->softcap.with_slopes(x);
      return f(of.u, mass...) * of.c;
    }
    return f(x, mass...);
  }
};

template <class T, Cap cap>
struct CurvatureOfRows : LogitRows<T, cap> {
  static constexpr bool kWidened = true;
  static constexpr bool kMixesTypes = true;

  RowOperand out, along_grad, v, grad;

  template <class V>
  C10_HOST_DEVICE ProjectionOfRow<V> start(int64_t row) const {
    const Normalizer<T> normalizer = this->normalizer_of(row);
    return {{V(normalizer.max), V(normalizer.inverse)}, V(0), V(0)};
  }
  template <class V, class... Q>
  C10_HOST_DEVICE void add(ProjectionOfRow<V>& state, V x, V v, Q... q) const {
    const V a = this->template mass<V>(q...);
    if (this->softcap.caps()) {
      const CappedLogit<V> of = this->softcap.with_slopes(x);
      state.add(of.u, v * of.c, a);
    } else {
      state.add(x, v, a);
    }
  }
  C10_HOST_DEVICE CurvatureOfRow<T> finish(int64_t row, const ProjectionOfRow<T>& all) const {
    const bool counts = this->targets.counts(row);
    const T g = counts ? grad.template read<T>(row, 0) : T(0), m = this->mass_of(row);
    const T k = total_mass(all.row, m, this->z);
    const T x_t = this->targets.at(this->x, row), v_t = this->targets.at(v, row);
    const T c_t = this->softcap.caps() ? this->softcap.with_slopes(x_t).c : T(1);
    const T at_target = this->targets.mass(this->targets.weight_of(row)) * c_t * v_t;
    along_grad.write(row, 0, counts ? k * all.dot_p - (all.dot_a + at_target) : T(0));
    const T d = g * (k - static_cast<T>(2 * this->z) * m) * all.dot_p;
    return {all.row.max, g * k * all.row.inverse, d * all.row.inverse, g, x_t, v_t};
  }
  template <class F, class V, class... Q>
  C10_HOST_DEVICE V value(const F& f, V x, V v, Q... q) const {
    return product(f, x, v, this->template mass<V>(q...));
  }
  C10_HOST_DEVICE void patch_target(int64_t row, const CurvatureOfRow<T>& f) const {
    if (this->softcap.caps() && this->targets.has_class(row)) {  // otherwise the curvature does not depend on a_t
      out.write(row, this->targets.index[row], product(f, f.x_t, f.v_t, this->mass_at_target(row)));
    }
  }

 private:
  template <class F, class V>
  C10_HOST_DEVICE V product(const F& f, V x, V v, V a) const {
    if (this->softcap.caps()) {
      const CappedLogit<V> of = this->softcap.with_slopes(x);
      return f(of.u, v, a, of.c, of.c_slope);
    }
    return f(x, v);
  }
};

// Calls f(q, w) with the operands of LogitRows::mass. A probability or weight that is missing is replaced by an operand
// that is read anyway, and ignored.
template <class T, class F>
void with_operands(const CrossEntropyRows& a, const F& f) {
  const RowOperand q = a.probabilities.data ? a.probabilities : a.logits;
  f(q, a.weight ? a.shape.shared(a.weight, c10::CppTypeToScalarType<T>::value) : q);
}

template <Cap cap>
using Known = std::integral_constant<Cap, cap>;

// Calls f(cap, massed, operands...). Code is compiled for the common cases in float. All others share some.
template <class T, class F>
void with_variant(const CrossEntropyRows& a, const F& f) {
  constexpr std::false_type no;
  constexpr std::true_type yes;
  const bool capped = a.softcap != 0, massed = a.probabilities.data || a.uniform != 0;
  if (!capped && !massed) {
    return f(Known<Cap::kNone>(), no);
  }
  if constexpr (std::is_same_v<T, float>) {
    if (!massed) {
      return f(Known<Cap::kSome>(), no);
    }
    if (!capped && !a.probabilities.data && !a.weight) {
      return f(Known<Cap::kNone>(), yes);
    }
    with_operands<T>(a, [&](const auto&... q) {
      capped ? f(Known<Cap::kSome>(), yes, q...) : f(Known<Cap::kNone>(), yes, q...);
    });
  } else {
    with_operands<T>(a, [&](const auto&... q) { f(Known<Cap::kUnknown>(), yes, q...); });
  }
}

void cross_entropy(c10::Device device, const CrossEntropy& a) {
  with_precision(a.rows.logits.type, [&](auto zero) {
    using T = decltype(zero);
    auto* const weights = static_cast<T*>(a.weights);
    with_variant<T>(a.rows, [&](auto cap, auto massed, const auto&... q) {
      const LossOfRows<T, cap(), massed()> op{LogitRows<T, cap()>(a.rows), a.losses, weights};
      reduce_rows<T>(device, a.rows.shape, op, a.rows.logits, q...);
    });
    if (a.loss.data) {
      const RowShape all{1, 1, a.rows.shape.rows};
      const auto type = a.losses.type;
      const ReduceLosses<T> op{a.mean, a.zero_if_empty, a.loss, static_cast<T*>(a.scale)};
      reduce_rows<T>(device, all, op, all.each(a.losses.data, type), all.each(weights, type));
    }
  });
}

void cross_entropy_gradient(c10::Device device, const CrossEntropyGradient& a) {
  with_precision(a.rows.logits.type, [&](auto zero) {
    using T = decltype(zero);
    with_variant<T>(a.rows, [&](auto cap, auto massed, const auto&... q) {
      const GradientOfRows<T, cap(), massed()> op{
          LogitRows<T, cap()>(a.rows), a.out, a.grad, static_cast<const T*>(a.scale)
      };
      map_rows<T>(device, a.rows.shape, op, a.out, a.rows.logits, q...);
    });
  });
}

void cross_entropy_curvature(c10::Device device, const CrossEntropyCurvature& a) {
  with_precision(a.rows.logits.type, [&](auto zero) {
    using T = decltype(zero);
    const auto transform = [&](auto cap, const auto&... q) {
      const CurvatureOfRows<T, cap()> op{LogitRows<T, cap()>(a.rows), a.out, a.along_grad, a.tangent, a.grad};
      transform_rows<T>(device, a.rows.shape, op, a.out, a.rows.logits, a.tangent, q...);
    };
    if constexpr (std::is_same_v<T, float>) {
      if (a.rows.softcap == 0 && !a.rows.probabilities.data && !(a.rows.uniform != 0 && a.rows.weight)) {
        return transform(Known<Cap::kNone>());
      }
    }
    with_operands<T>(a.rows, [&](const auto&... q) { transform(Known<Cap::kUnknown>(), q...); });
  });
}

const RegisterKernel<CrossEntropy> kCrossEntropy(cross_entropy);
const RegisterKernel<CrossEntropyGradient> kCrossEntropyGradient(cross_entropy_gradient);
const RegisterKernel<CrossEntropyCurvature> kCrossEntropyCurvature(cross_entropy_curvature);

}  // namespace
}  // namespace torchnotes
