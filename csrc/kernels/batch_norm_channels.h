// What the kernels of batch normalization share. They are operations on rows (loops/row_shape.h): one row is one
// channel. Why they add up in double precision is measured in docs/decisions/batch-norm-sums.md.
#pragma once

#include "formulas/batch_norm.h"
#include "kernels/batch_norm.h"

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

  // n channels, one per lane.
  template <class V>
  C10_HOST_DEVICE Channel<Wide<V>> at(int64_t row, int64_t n) const {
    using W = Wide<V>;
    return {
        load_lanes<W>(statistics + row, n),
        load_lanes<W>(statistics + count + row, n),
        weight ? widen(load_lanes<V>(weight + row, n)) : W(1.0),
        bias ? widen(load_lanes<V>(bias + row, n)) : W(0.0)
    };
  }
  template <class W>
  C10_HOST_DEVICE void set_statistics(int64_t row, int64_t n, W mean, W rstd) const {
    store_lanes(mean, statistics + row, n);
    store_lanes(rstd, statistics + count + row, n);
  }
};

}  // namespace
}  // namespace torchnotes
