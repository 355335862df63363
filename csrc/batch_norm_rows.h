// The row operations (row_shape.h) of batch normalization: one row is one channel. Why they add up in double precision
// is measured in docs/decisions/batch-norm-sums.md.
#pragma once

#include "formulas/batch_norm.h"
#include "row_shape.h"

namespace torchnotes {
namespace {

// The per-channel parameters, and the mean and 1/std that are saved for the backward pass.
template <class acc_t>
struct Channels {
  const acc_t* weight;
  const acc_t* bias;
  double* statistics;  // the mean of every channel, then r = 1/std
  int64_t count;

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

template <class acc_t, class scalar_t>
struct ChannelMoments {
  RowOperand<const scalar_t> x;
  double inverse_n;

  C10_HOST_DEVICE Shift<acc_t> row_constants(int64_t row) const { return {static_cast<acc_t>(*x.strided_row(row))}; }
  template <class T>
  C10_HOST_DEVICE ChannelSums<T> start(int64_t) const {
    return ChannelSums<T>::start();
  }
  template <class Constant, class T>
  C10_HOST_DEVICE void add(ChannelSums<T>& sums, const Shift<Constant>& shift, T x) const {
    const Wide<T> d = widen(x) - widen(T(shift.k));
    sums.add(d, d);
  }
  C10_HOST_DEVICE Moments moments_of(int64_t row, const ChannelSums<acc_t>& all) const {
    return moments(all, row_constants(row).k, inverse_n);
  }
};

template <class acc_t, class scalar_t>
struct BatchMoments : ChannelMoments<acc_t, scalar_t> {
  double* results;  // the mean of every channel, then the variance
  int64_t count;

  C10_HOST_DEVICE void finish(int64_t row, const ChannelSums<acc_t>& all) const {
    const Moments moments = this->moments_of(row, all);
    results[row] = moments.mean;
    results[count + row] = moments.variance;
  }
};

template <class acc_t, class scalar_t>
struct BatchStatistics : ChannelMoments<acc_t, scalar_t> {
  Channels<acc_t> channels;
  double unbiased, eps;  // n/(n - 1)
  bool center_only;
  acc_t* batch_mean;  // for the running statistics
  acc_t* batch_var;   // unbiased

  C10_HOST_DEVICE void finish(int64_t row, const ChannelSums<acc_t>& all) const {
    const Moments moments = this->moments_of(row, all);
    channels.statistics[row] = moments.mean;
    channels.statistics[channels.count + row] = center_only ? 1.0 : 1 / ::sqrt(moments.variance + eps);
    batch_mean[row] = static_cast<acc_t>(moments.mean);
    batch_var[row] = static_cast<acc_t>(moments.variance * unbiased);
  }
};

template <class acc_t, class scalar_t, class Activation>
struct Normalize : BatchStatistics<acc_t, scalar_t> {
  Activation f;

  C10_HOST_DEVICE ChannelMap<acc_t> finish(int64_t row, const ChannelSums<acc_t>& all) const {
    BatchStatistics<acc_t, scalar_t>::finish(row, all);
    return formula(row);
  }
  C10_HOST_DEVICE ChannelMap<acc_t> formula(int64_t row) const {
    return FromInput::channel_map<acc_t>(this->channels.at(row));
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const ChannelMap<T>& map, V x) const {
    return f(FromInput().z(map, x, x - V(map.m)));
  }
};

// What all passes of the backward have in common.
template <class acc_t, class scalar_t, class Reference, class Activation>
struct BatchNormPass {
  Channels<acc_t> channels;
  Reference from;
  Activation f;

  C10_HOST_DEVICE ChannelMap<acc_t> row_constants(int64_t row) const {
    return Reference::template channel_map<acc_t>(channels.at(row));
  }
  template <class T>
  C10_HOST_DEVICE ChannelSums<T> start(int64_t) const {
    return ChannelSums<T>::start();
  }
  static constexpr bool kBlocks = sizeof(scalar_t) == 2;
  template <class T>
  C10_HOST_DEVICE ChannelBlock<T> block() const {
    return {T(0), T(0)};
  }
  template <class Sums, class Constant, class T>
  C10_HOST_DEVICE void add(Sums& sums, const ChannelMap<Constant>& map, T g, T r) const {
    const T u = from.base(r) - T(map.m);
    sums.add(sums.number(backward_of_input(f, g, from.z(map, r, u))), sums.number(u));
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const ChannelGradient<T>& gradient, V g, V r) const {
    const V u = from.base(r) - V(gradient.map.m);
    return gradient(backward_of_input(f, g, from.z(gradient.map, r, u)), u);
  }
};

template <class acc_t, class scalar_t, class Reference, class Activation>
struct BatchNormTotals : BatchNormPass<acc_t, scalar_t, Reference, Activation> {
  double* totals;  // sum d of every channel, then sum d x^

  C10_HOST_DEVICE void finish(int64_t row, const ChannelSums<acc_t>& all) const {
    const ChannelTotals sums = channel_totals<Reference>(this->channels.at(row), all);
    totals[row] = sums.sum_d;
    totals[this->channels.count + row] = sums.sum_dx;
  }
};

template <class acc_t, class scalar_t, class Reference, class Activation>
struct BatchNormGradient : BatchNormPass<acc_t, scalar_t, Reference, Activation> {
  const double* means;  // of d for every channel, then of d x^
  bool center_only;

  C10_HOST_DEVICE ChannelGradient<acc_t> formula(int64_t row) const {
    const ChannelTotals per_number{means[row], means[this->channels.count + row]};
    return channel_gradient<Reference, acc_t>(this->channels.at(row), per_number, 1, center_only);
  }
};

template <class acc_t, class scalar_t, class Reference, class Activation>
struct BatchNormBackward : BatchNormPass<acc_t, scalar_t, Reference, Activation> {
  double inverse_n;  // 1/n, or 0 if the statistics are constants
  bool center_only;
  acc_t* grad_weight;
  acc_t* grad_bias;

  C10_HOST_DEVICE ChannelGradient<acc_t> finish(int64_t row, const ChannelSums<acc_t>& all) const {
    const Channel channel = this->channels.at(row);
    const ChannelTotals totals = channel_totals<Reference>(channel, all);
    grad_weight[row] = static_cast<acc_t>(totals.sum_dx);
    grad_bias[row] = static_cast<acc_t>(totals.sum_d);
    return channel_gradient<Reference, acc_t>(channel, totals, inverse_n, center_only);
  }
};

}  // namespace
}  // namespace torchnotes
