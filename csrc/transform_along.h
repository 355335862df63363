// Transforms the rows along one dimension of tensors, on either device. Include it after the row driver.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/WrapDimUtils.h>

#include "class_rows.h"
#include "formulas/softmax.h"
#include "operands.h"

namespace torchnotes {
namespace {

// The first pass over logits.
struct LogSumExpOfRows {
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

// Applies Op to the rows along a dimension and returns a new tensor. The operands must have the same size.
template <class Op, class... Rest>
at::Tensor transform_along(int64_t dim, const at::Tensor& first, const Rest&... rest) {
  (check_same(first, rest), ...);
  const auto rows = class_rows(first.contiguous(), at::maybe_wrap_dim(dim, first.dim()));
  at::Tensor out = empty_like_dense(rows.dense);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, first.scalar_type(), "torchnotes::transform_along", [&] {
    const auto run = [&](const auto&... operands) {
      transform_rows(
          first.device(),
          rows.shape,
          Op(),
          rows.shape.each(out.mutable_data_ptr<scalar_t>()),
          rows.shape.each(operands.template const_data_ptr<scalar_t>())...
      );
    };
    run(rows.dense, rest.contiguous()...);
  });
  return out;
}

}  // namespace
}  // namespace torchnotes
