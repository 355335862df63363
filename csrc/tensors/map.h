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

// Runs over operands that are dense and alike.
template <class Arguments, class... Inputs>
void run_dense(const at::Tensor& out, Arguments& arguments, const Inputs&... inputs) {
  MapOperands& operands = arguments.operands;  // one by one: a copy of all would wait for them to be stored
  operands.n = out.numel();
  operands.type = out.scalar_type();
  operands.out = out.mutable_data_ptr();
  int k = 0;
  ((operands.in[k++] = inputs.const_data_ptr()), ...);
  run(out.device(), arguments);
}

// Runs over operands with different layouts.
template <class Arguments>
void run_strided(at::TensorIteratorBase& iterator, Arguments& arguments) {
  if (iterator.numel() == 0) {
    return;
  }
  MapLayout layout;
  layout.dims = iterator.ndim();
  TORCH_INTERNAL_ASSERT(layout.dims <= MapLayout::kMaxDims);
  std::copy_n(iterator.shape().begin(), layout.dims, layout.sizes.begin());
  MapOperands& operands = arguments.operands;
  operands.n = iterator.numel();
  operands.type = iterator.common_dtype();
  operands.out = iterator.data_ptr(0);
  operands.layout = &layout;
  for (int k = 0; k < iterator.ntensors(); ++k) {
    if (k > 0) {
      operands.in[k - 1] = iterator.data_ptr(k);
    }
    for (int d = 0; d < layout.dims; ++d) {
      layout.strides[k][d] = iterator.strides(k)[d] / iterator.element_size(k);
    }
  }
  run(iterator.device(0), arguments);
}

// Writes to `out`, or to a new tensor with torch's layout if it is undefined.
template <class Arguments, class... Inputs>
at::Tensor map_strided_to(const at::Tensor& out, Arguments& arguments, const Inputs&... inputs) {
  at::TensorIteratorConfig config;
  config.add_owned_output(out);
  (config.add_const_input(inputs), ...);
  auto iterator = config.build();
  advise_huge_pages(iterator.output());
  run_strided(iterator, arguments);
  return iterator.output();
}

template <class Arguments, class... Rest>
at::Tensor map_to_new(Arguments&& arguments, const at::Tensor& first, const Rest&... rest) {
  (check_same(first, rest), ...);
  if (!same_dense_layout(first, rest...)) {
    return map_strided_to(at::Tensor(), arguments, first, rest...);
  }
  const at::Tensor out = empty_like_dense(first);
  run_dense(out, arguments, first, rest...);
  return out;
}

// The same, where operands with different layouts give a result with the layout of `like`.
template <class Arguments, class... Inputs>
at::Tensor map_to_new_like(const at::Tensor& like, Arguments&& arguments, const Inputs&... inputs) {
  if (same_dense_layout(like, inputs...)) {
    return map_to_new(arguments, inputs...);
  }
  (check_same(like, inputs), ...);
  return map_strided_to(at::empty_like(like), arguments, inputs...);
}

template <class Arguments>
void map_in_place(Arguments&& arguments, at::Tensor& x) {
  if (!same_dense_layout(x)) {
    auto iterator = at::TensorIterator::unary_op(x, x);  // raises if the tensor overlaps itself
    run_strided(iterator, arguments);
    return;
  }
  run_dense(x, arguments, x);
}

}  // namespace torchnotes
