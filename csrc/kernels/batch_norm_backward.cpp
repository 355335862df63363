// The backward pass of batch normalization.
#include "kernels/batch_norm_channels.h"
#include "kernels/kernel.h"
#include "loops/columns.h"
#include "loops/fused_activation.h"
#include "loops/precision.h"
#include "loops/segments.h"

namespace torchnotes {
namespace {

template <class T, class Reference, class Activation>
struct Backward {
  static constexpr bool kStaged = kIsStaged<Activation>, kInLanes = true;
  Channels<T> channels;
  Reference from;
  Activation f;
  BatchNormPasses passes;
  double inverse_n;
  bool center_only;
  T* grad_weight;
  T* grad_bias;
  double* totals;

  template <class V>
  C10_HOST_DEVICE ChannelMap<V> constants_lanes(int64_t row, int64_t n) const {
    return Reference::template channel_map<V>(channels.template at<V>(row, n));
  }
  C10_HOST_DEVICE ChannelMap<T> row_constants(int64_t row) const { return constants_lanes<T>(row, 1); }
  template <class V>
  C10_HOST_DEVICE ChannelSums<V> start(int64_t) const {
    return ChannelSums<V>::start();
  }
  template <class V>
  PartialChannelSums<V> partial() const {
    return {V(0), V(0)};
  }

  // z, which the activation was applied to.
  template <class V>
  C10_HOST_DEVICE V z(const ChannelMap<V>& map, V r) const {
    return from.z(map, r, from.base(r) - map.m);
  }
  template <class V>
  C10_HOST_DEVICE V stage_input(const ChannelMap<V>& map, V, V r) const {
    return z(map, r);
  }
  template <class V>
  C10_HOST_DEVICE V stage_input(const ChannelGradient<V>& gradient, V, V r) const {
    return z(gradient.map, r);
  }
  void apply_stage(int64_t n, const T* g, T* z, T* d) const { f.differentiate(n, g, z, d); }

  template <class Sums, class V>
  C10_HOST_DEVICE void staged_add(Sums& sums, const ChannelMap<V>& map, V d, V r) const {
    sums.add(sums.number(d), sums.number(from.base(r) - map.m));
  }
  template <class V>
  C10_HOST_DEVICE V staged_value(const ChannelGradient<V>& gradient, V d, V r) const {
    return gradient(d, from.base(r) - gradient.map.m);
  }

  template <class Sums, class V>
  C10_HOST_DEVICE void add(Sums& sums, const ChannelMap<V>& map, V g, V r) const {
    staged_add(sums, map, backward_of_input(f, g, z(map, r)), r);
  }
  template <class V>
  C10_HOST_DEVICE V value(const ChannelGradient<V>& gradient, V g, V r) const {
    return staged_value(gradient, backward_of_input(f, g, z(gradient.map, r)), r);
  }

  template <class V>
  C10_HOST_DEVICE ChannelGradient<V> finish_lanes(int64_t row, int64_t n, const ChannelSums<V>& all) const {
    const auto channel = channels.template at<V>(row, n);
    const auto sums = channel_totals<Reference>(channel, all);
    if (passes == BatchNormPasses::kTotals) {
      store_lanes(sums.sum_d, totals + row, n);
      store_lanes(sums.sum_dx, totals + channels.count + row, n);
    } else {
      store_lanes(narrow<V>(sums.sum_dx), grad_weight + row, n);
      store_lanes(narrow<V>(sums.sum_d), grad_bias + row, n);
    }
    return channel_gradient<Reference, V>(channel, sums, inverse_n, center_only);
  }
  template <class V>
  C10_HOST_DEVICE ChannelGradient<V> formula_lanes(int64_t row, int64_t n) const {
    using W = Wide<V>;
    ChannelTotals<W> means{W(0.0), W(0.0)};
    const bool given = passes == BatchNormPasses::kSecond;
    if (given) {
      means = {load_lanes<W>(totals + row, n), load_lanes<W>(totals + channels.count + row, n)};
    }
    return channel_gradient<Reference, V>(channels.template at<V>(row, n), means, given ? 1 : 0, center_only);
  }
  C10_HOST_DEVICE ChannelGradient<T> finish(int64_t row, const ChannelSums<T>& all) const {
    return finish_lanes(row, 1, all);
  }
  C10_HOST_DEVICE ChannelGradient<T> formula(int64_t row) const { return formula_lanes<T>(row, 1); }
};

// The same if mu and v are given, in one pass.
template <class T, class Reference, class Activation>
struct BackwardGiven : Backward<T, Reference, Activation> {
  using First = Backward<T, Reference, Activation>;
  using First::stage_input, First::staged_value;

  template <class V>
  C10_HOST_DEVICE V stage_input(const ChannelScale<V>& scale, V, V r) const {
    return this->z(scale.map, r);
  }
  template <class V>
  C10_HOST_DEVICE V staged_value(const ChannelScale<V>& scale, V d, V) const {
    return scale.p * d;
  }
  template <class V>
  C10_HOST_DEVICE V value(const ChannelScale<V>& scale, V g, V r) const {
    return scale.p * backward_of_input(this->f, g, this->z(scale.map, r));
  }
  template <class V>
  C10_HOST_DEVICE ChannelScale<V> formula_lanes(int64_t row, int64_t n) const {
    const auto channel = this->channels.template at<V>(row, n);
    return {Reference::template channel_map<V>(channel), narrow<V>(channel.gamma * channel.rstd)};
  }
  C10_HOST_DEVICE ChannelScale<T> formula(int64_t row) const { return formula_lanes<T>(row, 1); }
  C10_HOST_DEVICE ChannelScale<T> finish(int64_t row, const ChannelSums<T>& all) const {
    First::finish(row, all);
    return formula(row);
  }
};

template <class T, class Reference, class Activation>
void run_backward(c10::Device device, const BatchNormBackward& a, const Backward<T, Reference, Activation>& op) {
  const RowShape& shape = a.channels.shape;
  if (a.passes == BatchNormPasses::kTotals) {
    a.channels.columns ? reduce_columns<T>(device, shape, op, a.g, a.r)
                       : reduce_segments<T>(device, shape, op, a.g, a.r);
  } else if (a.passes == BatchNormPasses::kSecond) {
    a.channels.columns ? map_columns<T>(device, shape, op, a.out, a.g, a.r)
                       : map_segments<T>(device, shape, op, a.out, a.g, a.r);
  } else if (a.inverse_n == 0) {
    const BackwardGiven<T, Reference, Activation> given{op};
    a.channels.columns ? reduce_and_map_columns<T>(device, shape, given, a.out, a.g, a.r)
                       : reduce_and_map_segments<T>(device, shape, given, a.out, a.g, a.r);
  } else {
    a.channels.columns ? transform_columns<T>(device, shape, op, a.out, a.g, a.r)
                       : transform_segments<T>(device, shape, op, a.out, a.g, a.r);
  }
}

void backward(c10::Device device, const BatchNormBackward& a) {
  const BatchNormChannels& c = a.channels;
  with_precision(a.r.type, [&](auto zero) {
    using T = decltype(zero);
    const auto run_with = [&]<class Reference, class Activation>(const Reference& from, const Activation& f) {
      run_backward(
          device,
          a,
          Backward<T, Reference, Activation>{
              Channels<T>(c),
              from,
              f,
              a.passes,
              a.inverse_n,
              c.center_only,
              static_cast<T*>(a.grad_weight),
              static_cast<T*>(a.grad_bias),
              a.totals
          }
      );
    };
    if (a.from_output) {
      const double slope = c.activation == number_of<Identity>() ? 1 : c.negative_slope;
      run_with(FromOutput{1 / slope}, LeakyReLU{slope});
    } else {
      with_activation<T>(c.activation, c.negative_slope, [&](const auto& f) { run_with(FromInput(), f); });
    }
  });
}

const RegisterKernel<BatchNormBackward> kBackward(backward);

}  // namespace
}  // namespace torchnotes
