#include "kernels/linear.h"

#include "formulas/linear.h"
#include "kernels/kernel.h"
#include "loops/columns.h"
#include "loops/fused_activation.h"
#include "loops/precision.h"
#include "loops/rows.h"

namespace torchnotes {
namespace {

template <class T, class Activation>
struct Neurons {
  static constexpr bool kStaged = kIsStaged<Activation>;
  const T* bias;
  Activation f;

  C10_HOST_DEVICE Bias<T> formula(int64_t j) const { return {bias[j]}; }
  template <class V>
  C10_HOST_DEVICE V stage_input(const Bias<V>& bias_of, V sum) const {
    return sum + bias_of.b;
  }
  void apply_stage(int64_t n, const T*, T* z, T* y) const { f.activate(n, z, y); }
  template <class V>
  V staged_value(const Bias<V>&, V y) const {
    return y;
  }
  template <class U, class V>
  C10_HOST_DEVICE V value(const Bias<U>& bias_of, V sum) const {
    return f.forward(sum + V(bias_of.b));
  }
};

template <class T, class Activation>
struct Errors {
  T* sums;
  Activation f;

  template <class V>
  C10_HOST_DEVICE DeltaSum<V> start(int64_t) const {
    return DeltaSum<V>::start();
  }
  template <class V>
  C10_HOST_DEVICE void add(DeltaSum<V>& sum, V delta) const {
    sum.add(delta);
  }
  C10_HOST_DEVICE void finish(int64_t j, const DeltaSum<T>& all) const { sums[j] = static_cast<T>(all.sum); }

  void map_tile(int64_t n, const T* g, const T* y, T* delta) const { f.differentiate_output(n, g, y, delta); }
  C10_HOST_DEVICE T value(T g, T y) const { return backward_of_output(f, g, y); }
};

void add_bias_and_activate(c10::Device device, const BiasAndActivation& a) {
  with_precision(a.out.type, [&](auto zero) {
    using T = decltype(zero);
    with_activation<T>(a.activation, a.negative_slope, [&](const auto& f) {
      const Neurons<T, std::decay_t<decltype(f)>> op{static_cast<const T*>(a.bias), f};
      a.shape.rows == 1 ? map_rows<T>(device, a.shape, op, a.out, a.in)
                        : map_columns<T>(device, a.shape, op, a.out, a.in);
    });
  });
}

void errors(c10::Device device, const LinearErrors& a) {
  with_precision(a.delta.type, [&](auto zero) {
    using T = decltype(zero);
    const auto f = activation_for_tiles<T>(a.activation, a.negative_slope);
    const Errors<T, std::decay_t<decltype(f)>> op{static_cast<T*>(a.sums), f};
    map_and_reduce_columns<T>(device, a.shape, op, a.delta, a.g, a.y);
  });
}

const RegisterKernel<BiasAndActivation> kBiasAndActivation(add_bias_and_activate);
const RegisterKernel<LinearErrors> kErrors(errors);

}  // namespace
}  // namespace torchnotes
