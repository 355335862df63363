// The operations on rows (loops/row_shape.h) of batch normalization: one row is one channel. Why they add up in double
// precision is measured in docs/decisions/batch-norm-sums.md.
#include "kernels/batch_norm.h"

#include "formulas/batch_norm.h"
#include "kernels/kernel.h"
#include "loops/columns.h"
#include "loops/fused_activation.h"
#include "loops/precision.h"
#include "loops/segments.h"

namespace torchnotes {
namespace {

// The parameters of every channel, and the mean and 1/std that are saved for the backward pass.
template <class T>
struct Channels {
  const T* weight;
  const T* bias;
  double* statistics;
  int64_t count;

  explicit Channels(const BatchNormChannels& c)
      : weight(static_cast<const T*>(c.weight)),
        bias(static_cast<const T*>(c.bias)),
        statistics(c.statistics),
        count(c.shape.rows) {}

  C10_HOST_DEVICE Channel at(int64_t row) const {
    return {
        statistics[row],
        statistics[count + row],
        weight ? static_cast<double>(weight[row]) : 1.0,
        bias ? static_cast<double>(bias[row]) : 0.0
    };
  }
};

template <class T>
struct Shift {
  T k;
};

template <class T>
struct SumsOfChannel {
  RowOperand x;
  double inverse_n;

  C10_HOST_DEVICE Shift<T> row_constants(int64_t row) const { return {x.read<T>(row, 0)}; }
  template <class V>
  C10_HOST_DEVICE ChannelSums<V> start(int64_t) const {
    return ChannelSums<V>::start();
  }
  template <class Constant, class V>
  C10_HOST_DEVICE void add(ChannelSums<V>& sums, const Shift<Constant>& shift, V x) const {
    const Wide<V> d = widen(x) - widen(V(shift.k));
    sums.add(d, d);
  }
  C10_HOST_DEVICE Moments moments_of(int64_t row, const ChannelSums<T>& all) const {
    return moments(all, row_constants(row).k, inverse_n);
  }
};

template <class T>
struct MomentsOfChannel : SumsOfChannel<T> {
  double* results;
  int64_t count;

  C10_HOST_DEVICE void finish(int64_t row, const ChannelSums<T>& all) const {
    const Moments moments = this->moments_of(row, all);
    results[row] = moments.mean;
    results[count + row] = moments.variance;
  }
};

template <class T>
struct Statistics : SumsOfChannel<T> {
  Channels<T> channels;
  double unbiased, eps;  // n/(n - 1)
  bool center_only;
  T* running_mean;
  T* running_var;
  double momentum;

  C10_HOST_DEVICE ChannelMap<T> finish(int64_t row, const ChannelSums<T>& all) const {
    const Moments moments = this->moments_of(row, all);
    channels.statistics[row] = moments.mean;
    channels.statistics[channels.count + row] = center_only ? 1.0 : 1 / ::sqrt(moments.variance + eps);
    update(running_mean, row, moments.mean);
    update(running_var, row, moments.variance * unbiased);
    return FromInput::channel_map<T>(channels.at(row));
  }
  C10_HOST_DEVICE void update(T* running, int64_t row, double of_batch) const {
    if (running) {
      running[row] = static_cast<T>((1 - momentum) * static_cast<double>(running[row]) + momentum * of_batch);
    }
  }
  C10_HOST_DEVICE ChannelMap<T> formula(int64_t row) const {
    if (running_mean) {
      channels.statistics[row] = running_mean[row];
      channels.statistics[channels.count + row] =
          center_only ? 1.0 : 1 / ::sqrt(static_cast<double>(running_var[row]) + eps);
    }
    return FromInput::channel_map<T>(channels.at(row));
  }
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

template <class T, class Reference, class Activation>
struct Backward {
  static constexpr bool kStaged = kIsStaged<Activation>;
  Channels<T> channels;
  Reference from;
  Activation f;
  BatchNormPasses passes;
  double inverse_n;
  bool center_only;
  T* grad_weight;
  T* grad_bias;
  double* totals;

  C10_HOST_DEVICE ChannelMap<T> row_constants(int64_t row) const {
    return Reference::template channel_map<T>(channels.at(row));
  }
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

  C10_HOST_DEVICE ChannelGradient<T> finish(int64_t row, const ChannelSums<T>& all) const {
    const Channel channel = channels.at(row);
    const ChannelTotals sums = channel_totals<Reference>(channel, all);
    if (passes == BatchNormPasses::kTotals) {
      totals[row] = sums.sum_d;
      totals[channels.count + row] = sums.sum_dx;
    } else {
      grad_weight[row] = static_cast<T>(sums.sum_dx);
      grad_bias[row] = static_cast<T>(sums.sum_d);
    }
    return channel_gradient<Reference, T>(channel, sums, inverse_n, center_only);
  }
  C10_HOST_DEVICE ChannelGradient<T> formula(int64_t row) const {
    const bool given = passes == BatchNormPasses::kSecond;
    const ChannelTotals means = given ? ChannelTotals{totals[row], totals[channels.count + row]} : ChannelTotals{0, 0};
    return channel_gradient<Reference, T>(channels.at(row), means, given ? 1 : 0, center_only);
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

template <class T, class Op>
void run_backward(c10::Device device, const BatchNormBackward& a, const Op& op) {
  const RowShape& shape = a.channels.shape;
  if (a.passes == BatchNormPasses::kTotals) {
    a.channels.columns ? reduce_columns<T>(device, shape, op, a.g, a.r)
                       : reduce_segments<T>(device, shape, op, a.g, a.r);
  } else if (a.passes == BatchNormPasses::kSecond) {
    a.channels.columns ? map_columns<T>(device, shape, op, a.out, a.g, a.r)
                       : map_segments<T>(device, shape, op, a.out, a.g, a.r);
  } else if (a.inverse_n == 0) {
    a.channels.columns ? reduce_and_map_columns<T>(device, shape, op, a.out, a.g, a.r)
                       : reduce_and_map_segments<T>(device, shape, op, a.out, a.g, a.r);
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
      run_backward<T>(
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

const RegisterKernel<BatchNormForward> kForward(forward);
const RegisterKernel<BatchNormMoments> kMoments(moments_of_channels);
const RegisterKernel<BatchNormBackward> kBackward(backward);

}  // namespace
}  // namespace torchnotes
