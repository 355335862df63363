// Allocation of results, with the interface of cpu/allocate.h. torch's caching allocator is good enough.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "../operands.h"

namespace torchnotes {

// Uninitialized memory with the size, dtype and layout of a dense tensor, or in a memory format.
inline at::Tensor empty_like_dense(const at::Tensor& x, at::MemoryFormat format) { return at::empty_like(x, format); }
inline at::Tensor empty_like_dense(const at::Tensor& x) { return empty_like_dense(x, dense_format(x)); }

// An uninitialized matrix of the dtype of x, on its device.
inline at::Tensor empty_matrix(int64_t rows, int64_t columns, const at::Tensor& x) {
  return at::empty({rows, columns}, x.options());
}

}  // namespace torchnotes
