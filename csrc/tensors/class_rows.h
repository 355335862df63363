// The rows along one dimension of a tensor, for the traversals of rows.
#pragma once

#include <ATen/core/Tensor.h>

#include "loops/row_shape.h"

namespace torchnotes {

struct ClassRows {
  at::Tensor dense;  // contiguous, with the dimension last if `moved`
  RowShape shape;
  int64_t dim;
  bool moved;

  RowOperand read(const at::Tensor& x) const { return shape.each(x.const_data_ptr(), x.scalar_type()); }
  RowOperand written(const at::Tensor& x) const { return shape.each(x.mutable_data_ptr(), x.scalar_type()); }

  // x with the layout of `dense`, copied if necessary.
  at::Tensor to_layout(const at::Tensor& x) const { return (moved ? x.movedim(dim, -1) : x).contiguous(); }
};

// Copies only if x is neither contiguous nor dense with `dim` innermost. Rows of one element interleave, so that a
// vector loads many of them.
inline ClassRows class_rows(const at::Tensor& x, int64_t dim) {
  const int64_t length = x.size(dim);
  if (!x.is_contiguous() && x.movedim(dim, -1).is_contiguous()) {
    return {x.movedim(dim, -1), {length == 0 ? 0 : x.numel() / length, 1, length}, dim, true};
  }
  int64_t interleaved = 1, outer = 1;
  for (int64_t i = 0; i < x.dim(); ++i) {
    (i < dim && length != 1 ? outer : interleaved) *= i == dim ? 1 : x.size(i);
  }
  return {x.contiguous(), {outer * interleaved, 1, length, interleaved}, dim, false};
}

}  // namespace torchnotes
