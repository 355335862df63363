// Allocation of results. For large results on the CPU, obtaining memory costs more than the arithmetic
// (docs/decisions/memory.md), so that allocate.cpp does not use torch's allocator there.
#pragma once

#include <ATen/core/Tensor.h>

#include "tensors/operands.h"

namespace torchnotes {

// Uninitialized memory with the size, dtype and layout of a dense tensor, or in a memory format.
at::Tensor empty_like_dense(const at::Tensor& x, at::MemoryFormat format);
inline at::Tensor empty_like_dense(const at::Tensor& x) { return empty_like_dense(x, dense_format(x)); }

// An uninitialized matrix of the dtype of x, on its device.
at::Tensor empty_matrix(int64_t rows, int64_t columns, const at::Tensor& x);

// Asks for huge pages for a large result that has not been touched yet.
void advise_huge_pages(const at::Tensor& fresh);

}  // namespace torchnotes
