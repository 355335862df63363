// Included by the kernels of either device, after its row driver.
#pragma once

#include "../formulas/log_softmax.h"

#include <torch/library.h>

#include "../transform_along.h"

namespace torchnotes {
namespace {

struct LogSoftmaxOfRows : LogSumExpOfRows {
  template <class T>
  C10_HOST_DEVICE Lse<T> finish(int64_t, const LogSumExp<T>& all) const {
    return lse(all);
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const Lse<T>& row_lse, V x) const {
    return row_lse.log_softmax(x);
  }
};

struct LogSoftmaxBackwardOfRows {
  template <class T>
  C10_HOST_DEVICE SumOfGradient<T> start(int64_t) const {
    return {T(0)};
  }
  template <class T>
  C10_HOST_DEVICE void add(SumOfGradient<T>& state, T g, T) const {
    state.add(g);
  }
  template <class T>
  C10_HOST_DEVICE SumOfGradient<T> finish(int64_t, const SumOfGradient<T>& all) const {
    return all;
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const SumOfGradient<T>& sum, V g, V y) const {
    return sum.backward(g, y);
  }
};

}  // namespace
}  // namespace torchnotes

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("log_softmax", [](const Tensor& input, int64_t dim) { return transform_along<LogSoftmaxOfRows>(dim, input); });
  m.impl("log_softmax_backward", [](const Tensor& grad, const Tensor& output, int64_t dim) {
    return transform_along<LogSoftmaxBackwardOfRows>(dim, grad, output);
  });
}
