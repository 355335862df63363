// The statistics and the forward pass of batch normalization.
#include "kernels/batch_norm_channels.h"
#include "kernels/kernel.h"
#include "loops/columns.h"
#include "loops/fused_activation.h"
#include "loops/precision.h"
#include "loops/segments.h"

namespace torchnotes {
namespace {

template <class T>
struct Shift {
  T k;
};

template <class T>
struct SumsOfChannel {
  static constexpr bool kInLanes = true;
  RowOperand x;
  double inverse_n;

  template <class V>
  C10_HOST_DEVICE Shift<V> constants_lanes(int64_t row, int64_t n) const {
    return {first_elements<V>(x, row, n)};
  }
  C10_HOST_DEVICE Shift<T> row_constants(int64_t row) const { return constants_lanes<T>(row, 1); }
  template <class V>
  C10_HOST_DEVICE ChannelSums<V> start(int64_t) const {
    return ChannelSums<V>::start();
  }
  template <class Constant, class V>
  C10_HOST_DEVICE void add(ChannelSums<V>& sums, const Shift<Constant>& shift, V x) const {
    const Wide<V> d = widen(x) - widen(V(shift.k));
    sums.add(d, d);
  }
  template <class V>
  C10_HOST_DEVICE Moments<Wide<V>> moments_of(int64_t row, int64_t n, const ChannelSums<V>& all) const {
    return moments(all, widen(constants_lanes<V>(row, n).k), inverse_n);
  }
};

template <class T>
struct MomentsOfChannel : SumsOfChannel<T> {
  double* results;
  int64_t count;

  template <class V>
  C10_HOST_DEVICE void finish_lanes(int64_t row, int64_t n, const ChannelSums<V>& all) const {
    const auto moments = this->moments_of(row, n, all);
    store_lanes(moments.mean, results + row, n);
    store_lanes(moments.variance, results + count + row, n);
  }
  C10_HOST_DEVICE void finish(int64_t row, const ChannelSums<T>& all) const { finish_lanes(row, 1, all); }
};

template <class T>
struct Statistics : SumsOfChannel<T> {
  Channels<T> channels;
  double unbiased, eps;  // n/(n - 1)
  bool center_only;
  T* running_mean;
  T* running_var;
  double momentum;

  template <class V>
  C10_HOST_DEVICE ChannelMap<V> finish_lanes(int64_t row, int64_t n, const ChannelSums<V>& all) const {
    const auto moments = this->moments_of(row, n, all);
    update<V>(running_mean, row, n, moments.mean);
    update<V>(running_var, row, n, moments.variance * Wide<V>(unbiased));
    return map_lanes<V>(row, n, moments);
  }
  template <class V>
  C10_HOST_DEVICE void update(T* running, int64_t row, int64_t n, Wide<V> of_batch) const {
    using W = Wide<V>;
    if (running) {
      const W old = widen(load_lanes<V>(running + row, n));
      store_lanes(narrow<V>(W(1 - momentum) * old + W(momentum) * of_batch), running + row, n);
    }
  }
  template <class V>
  C10_HOST_DEVICE ChannelMap<V> formula_lanes(int64_t row, int64_t n) const {
    using W = Wide<V>;
    if (running_mean) {
      const W mean = widen(load_lanes<V>(running_mean + row, n));
      const W variance = running_var ? widen(load_lanes<V>(running_var + row, n)) : W(0.0);
      return map_lanes<V>(row, n, Moments<W>{mean, variance});
    }
    return FromInput::channel_map<V>(channels.template at<V>(row, n));
  }
  template <class V, class W>
  C10_HOST_DEVICE ChannelMap<V> map_lanes(int64_t row, int64_t n, const Moments<W>& moments) const {
    const W rstd = center_only ? W(1.0) : W(1.0) / sqrt(moments.variance + W(eps));
    channels.set_statistics(row, n, moments.mean, rstd);
    return FromInput::channel_map<V>(channels.template at<V>(row, n));
  }
  C10_HOST_DEVICE ChannelMap<T> finish(int64_t row, const ChannelSums<T>& all) const {
    return finish_lanes(row, 1, all);
  }
  C10_HOST_DEVICE ChannelMap<T> formula(int64_t row) const { return formula_lanes<T>(row, 1); }
};

template <class T, class Activation>
struct Normalize : Statistics<T> {
  using First = Statistics<T>;
  static constexpr bool kStaged = kIsStaged<Activation>;
  Activation f;

  template <class Map, class V>
  C10_HOST_DEVICE V stage_input(const Map& map, V x) const {
    return FromInput().z(map, x, x - V(map.m));
  }
  void apply_stage(int64_t n, const T*, T* z, T* y) const { f.activate(n, z, y); }
  template <class Map, class V>
  V staged_value(const Map&, V y) const {
    return y;
  }
  template <class Map, class V>
  C10_HOST_DEVICE V value(const Map& map, V x) const {
    return f.forward(stage_input(map, x));
  }
};

double inverse_size(const RowShape& shape) { return 1 / static_cast<double>(shape.elements()); }

void forward(c10::Device device, const BatchNormForward& a) {
  const BatchNormChannels& c = a.channels;
  with_precision(a.x.type, [&](auto zero) {
    using T = decltype(zero);
    const double n = static_cast<double>(c.shape.elements());
    const Statistics<T> statistics{
        {a.x, inverse_size(c.shape)},
        Channels<T>(c),
        n / (n - 1),
        a.eps,
        c.center_only,
        static_cast<T*>(a.running_mean),
        static_cast<T*>(a.running_var),
        a.momentum
    };
    with_activation<T>(c.activation, c.negative_slope, [&](const auto& f) {
      const Normalize<T, std::decay_t<decltype(f)>> op{statistics, f};
      if (c.columns && a.training) {
        transform_columns<T>(device, c.shape, op, a.out, a.x);
      } else if (c.columns) {
        map_columns<T>(device, c.shape, op, a.out, a.x);
      } else if (a.training) {
        transform_segments<T>(device, c.shape, op, a.out, a.x);
      } else {
        map_segments<T>(device, c.shape, op, a.out, a.x);
      }
    });
  });
}

void moments_of_channels(c10::Device device, const BatchNormMoments& a) {
  with_precision(a.x.type, [&](auto zero) {
    using T = decltype(zero);
    const MomentsOfChannel<T> op{{a.x, inverse_size(a.shape)}, a.results, a.shape.rows};
    a.columns ? reduce_columns<T>(device, a.shape, op, a.x) : reduce_segments<T>(device, a.shape, op, a.x);
  });
}

const RegisterKernel<BatchNormForward> kForward(forward);
const RegisterKernel<BatchNormMoments> kMoments(moments_of_channels);

}  // namespace
}  // namespace torchnotes
