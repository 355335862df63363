// Elementwise operations on tensors: map_to_new(arguments, a, b, ...) computes a new tensor, map_in_place(arguments, x)
// overwrites one. `arguments` are those of a kernel, without their MapOperands `operands`.
#pragma once

#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

#include "loops/map_operands.h"
#include "tensors/allocate.h"
#include "tensors/operands.h"
#include "tensors/run.h"

namespace torchnotes {

// Of operands with different layouts. The iterator must outlive them.
inline MapOperands strided_operands(at::TensorIteratorBase& iterator) {
  MapOperands operands{iterator.numel(), iterator.common_dtype(), iterator.data_ptr(0)};
  operands.dims = iterator.ndim();
  TORCH_CHECK(
      operands.dims <= MapOperands::kMaxDims, "torchnotes: too many dimensions of different layouts: ", operands.dims
  );
  std::copy_n(iterator.shape().begin(), operands.dims, operands.sizes.begin());
  for (int k = 0; k < iterator.ntensors(); ++k) {
    if (k > 0) {
      operands.in[k - 1] = iterator.data_ptr(k);
    }
    for (int d = 0; d < operands.dims; ++d) {
      operands.strides[k][d] = iterator.strides(k)[d] / iterator.element_size(k);
    }
  }
  return operands;
}

template <class Arguments, class... Rest>
at::Tensor map_to_new(Arguments arguments, const at::Tensor& first, const Rest&... rest) {
  (check_same(first, rest), ...);
  if (same_dense_layout(first, rest...)) {
    const at::Tensor out = empty_like_dense(first);
    arguments.operands = {
        first.numel(), first.scalar_type(), out.mutable_data_ptr(), {first.const_data_ptr(), rest.const_data_ptr()...}
    };
    run(first.device(), arguments);
    return out;
  }
  auto iterator = result_iterator(first, rest...);
  if (iterator.numel() > 0) {
    advise_huge_pages(iterator.output());
    arguments.operands = strided_operands(iterator);
    run(first.device(), arguments);
  }
  return iterator.output();
}

// The same, where operands with different layouts give a result with the layout of `like`.
template <class Arguments, class... Inputs>
at::Tensor map_to_new_like(const at::Tensor& like, Arguments arguments, const Inputs&... inputs) {
  if (same_dense_layout(like, inputs...)) {
    return map_to_new(arguments, inputs...);
  }
  (check_same(like, inputs), ...);
  const at::Tensor out = at::empty_like(like);
  at::TensorIteratorConfig config;
  config.add_output(out);
  (config.add_const_input(inputs), ...);
  auto iterator = config.build();
  if (iterator.numel() > 0) {
    arguments.operands = strided_operands(iterator);
    run(like.device(), arguments);
  }
  return out;
}

template <class Arguments>
void map_in_place(Arguments arguments, at::Tensor& x) {
  if (same_dense_layout(x)) {
    arguments.operands = {x.numel(), x.scalar_type(), x.mutable_data_ptr(), {x.const_data_ptr()}};
    run(x.device(), arguments);
    return;
  }
  auto iterator = at::TensorIterator::unary_op(x, x);  // raises if the tensor overlaps itself
  if (iterator.numel() > 0) {
    arguments.operands = strided_operands(iterator);
    run(x.device(), arguments);
  }
}

}  // namespace torchnotes
