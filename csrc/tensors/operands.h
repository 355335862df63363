// The operands of an elementwise operation, on either device: checks and memory layouts.
#pragma once

#include <ATen/core/Tensor.h>

namespace torchnotes {

// Call the checks before anything is allocated or written.
inline void check_same_device(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(
      a.device() == b.device(),
      "Expected all tensors to be on the same device, but found at least two devices, ",
      a.device(),
      " and ",
      b.device(),
      "!"
  );
}

inline void check_same_type(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(
      a.scalar_type() == b.scalar_type(),
      "torchnotes: expected operands of one dtype, got ",
      a.scalar_type(),
      " and ",
      b.scalar_type()
  );
  check_same_device(a, b);
}

// The same for operands that must not broadcast.
inline void check_same(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.sizes() == b.sizes(), "torchnotes: expected operands of one size, got ", a.sizes(), " and ", b.sizes());
  check_same_type(a, b);
}

// The fast path: every operand is a dense block of memory with the same strides. Excludes empty tensors, whose strides
// mean nothing; TensorIterator gives their results the strides that torch would.
template <class... Rest>
bool same_dense_layout(const at::Tensor& first, const Rest&... rest) {
  return first.numel() > 0 && first.is_non_overlapping_and_dense() && ((rest.strides() == first.strides()) && ...);
}

// The memory format of a result laid out like the dense x. As in torch, the strides of dimensions of size 1, which mean
// nothing, are copied only if no memory format determines them.
inline at::MemoryFormat dense_format(const at::Tensor& x) {
  if (x.is_contiguous()) {
    return at::MemoryFormat::Contiguous;
  }
  return x.is_contiguous(at::MemoryFormat::ChannelsLast) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Preserve;
}

}  // namespace torchnotes
