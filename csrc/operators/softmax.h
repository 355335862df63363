// Included by the kernels of either device, after its row driver.
#pragma once

#include "../formulas/softmax.h"

#include <torch/library.h>

#include "../transform_along.h"

namespace torchnotes {
namespace {

struct SoftmaxOfRows : LogSumExpOfRows {
  template <class T>
  C10_HOST_DEVICE Normalizer<T> finish(int64_t, const LogSumExp<T>& all) const {
    return normalizer(all);
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const Normalizer<T>& normalizer, V x) const {
    return normalizer.softmax(x);
  }
};

struct SoftmaxBackwardOfRows {
  template <class T>
  C10_HOST_DEVICE InnerProduct<T> start(int64_t) const {
    return {T(0)};
  }
  template <class T>
  C10_HOST_DEVICE void add(InnerProduct<T>& state, T g, T y) const {
    state.add(g, y);
  }
  template <class T>
  C10_HOST_DEVICE InnerProduct<T> finish(int64_t, const InnerProduct<T>& all) const {
    return all;
  }
  template <class T, class V>
  C10_HOST_DEVICE V value(const InnerProduct<T>& dot, V g, V y) const {
    return dot.backward(g, y);
  }
};

}  // namespace
}  // namespace torchnotes

TORCH_LIBRARY_IMPL(torchnotes, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  using at::Tensor;
  m.impl("softmax", [](const Tensor& input, int64_t dim) { return transform_along<SoftmaxOfRows>(dim, input); });
  m.impl("softmax_backward", [](const Tensor& grad, const Tensor& output, int64_t dim) {
    return transform_along<SoftmaxBackwardOfRows>(dim, grad, output);
  });
}
