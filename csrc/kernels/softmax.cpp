#include "kernels/softmax.h"

#include "formulas/log_softmax.h"
#include "formulas/softmax.h"
#include "kernels/kernel.h"
#include "loops/precision.h"
#include "loops/rows.h"

namespace torchnotes {
namespace {

// The first pass over logits.
struct LogSumExpOfRows {
  static constexpr bool kShortRows = true;

  template <class T>
  C10_HOST_DEVICE LogSumExp<T> start(int64_t) const {
    return LogSumExp<T>::start();
  }
  template <class T>
  Maximum<T> prescan() const {
    return Maximum<T>::start();
  }
  template <class T, class Scalar>
  LogSumExpGivenMax<T> start(int64_t, Maximum<Scalar> max) const {
    return LogSumExpGivenMax<T>::start(max);
  }
  template <class T>
  void scan(Maximum<T>& prescan, T x) const {
    prescan.add(x);
  }
  template <class State, class T>
  C10_HOST_DEVICE void add(State& state, T x) const {
    state.add(x);
  }
};

struct SoftmaxOfRows : LogSumExpOfRows {
  static constexpr bool kKeeps = true;

  template <class V>
  V kept_add(LogSumExpGivenMax<V>& state, V x) const {
    const V e = exp_nonpositive(x - state.max);
    state.sum = state.sum + e;
    return e;
  }
  template <class V>
  V kept_value(const Normalizer<V>& normalizer, V e) const {
    return e * normalizer.inverse;
  }
  template <class T>
  C10_HOST_DEVICE Normalizer<T> finish(int64_t, const LogSumExp<T>& all) const {
    return normalizer(all);
  }
  template <class V>
  Normalizer<V> finish_lanes(int64_t, int64_t, const LogSumExp<V>& all) const {
    return normalizer(all);
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const Normalizer<T>& normalizer, V x) const {
    return normalizer.softmax(x);
  }
};

struct LogSoftmaxOfRows : LogSumExpOfRows {
  template <class T>
  C10_HOST_DEVICE Lse<T> finish(int64_t, const LogSumExp<T>& all) const {
    return lse(all);
  }
  template <class V>
  Lse<V> finish_lanes(int64_t, int64_t, const LogSumExp<V>& all) const {
    return lse(all);
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const Lse<T>& row_lse, V x) const {
    return row_lse.log_softmax(x);
  }
};

// The sum is an InnerProduct or a SumOfGradient.
template <template <class> class Sum>
struct BackwardOfRows {
  static constexpr bool kShortRows = true;

  template <class T>
  C10_HOST_DEVICE Sum<T> start(int64_t) const {
    return {T(0)};
  }
  template <class T>
  C10_HOST_DEVICE void add(Sum<T>& state, T g, T y) const {
    state.add(g, y);
  }
  template <class T>
  C10_HOST_DEVICE Sum<T> finish(int64_t, const Sum<T>& all) const {
    return all;
  }
  template <class V>
  Sum<V> finish_lanes(int64_t, int64_t, const Sum<V>& all) const {
    return all;
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const Sum<T>& sum, V g, V y) const {
    return sum.backward(g, y);
  }
};

void softmax(c10::Device device, const Softmax& a) {
  with_precision(a.out.type, [&](auto zero) {
    using T = decltype(zero);
    a.logarithm ? transform_rows<T>(device, a.shape, LogSoftmaxOfRows(), a.out, a.in)
                : transform_rows<T>(device, a.shape, SoftmaxOfRows(), a.out, a.in);
  });
}

void softmax_gradient(c10::Device device, const SoftmaxGradient& a) {
  with_precision(a.out.type, [&](auto zero) {
    using T = decltype(zero);
    a.logarithm ? transform_rows<T>(device, a.shape, BackwardOfRows<SumOfGradient>(), a.out, a.grad, a.output)
                : transform_rows<T>(device, a.shape, BackwardOfRows<InnerProduct>(), a.out, a.grad, a.output);
  });
}

const RegisterKernel<Softmax> kSoftmax(softmax);
const RegisterKernel<SoftmaxGradient> kSoftmaxGradient(softmax_gradient);

}  // namespace
}  // namespace torchnotes
