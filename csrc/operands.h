// The operands of an elementwise operation, on either device: what they must have in common, and how they lie.
#pragma once

#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>

namespace torchnotes {

// To be called before anything is allocated or written.
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

inline void check_alike(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(
      a.scalar_type() == b.scalar_type(),
      "torchnotes: operands differ in dtype: ",
      a.scalar_type(),
      " and ",
      b.scalar_type()
  );
  check_same_device(a, b);
}

// The same where broadcasting is the caller's.
inline void check_same(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.sizes() == b.sizes(), "torchnotes: operands differ in size: ", a.sizes(), " and ", b.sizes());
  check_alike(a, b);
}

// The fast path: one dense block of memory each, laid out alike. (Not for empty tensors, whose
// strides say nothing; TensorIterator gives the result those that torch would.)
template <class... Rest>
bool dense_alike(const at::Tensor& first, const Rest&... rest) {
  return first.numel() > 0 && first.is_non_overlapping_and_dense() && ((rest.strides() == first.strides()) && ...);
}

// The memory format of a result laid out like the dense x. As in torch, the strides of dimensions of size 1, which mean
// nothing, are copied only where no memory format determines them.
inline at::MemoryFormat dense_format(const at::Tensor& x) {
  if (x.is_contiguous()) {
    return at::MemoryFormat::Contiguous;
  }
  return x.is_contiguous(at::MemoryFormat::ChannelsLast) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Preserve;
}

// The slow path, for operands that lie differently: a new result laid out as torch would, and the inputs in turn.
template <class... Tensors>
at::TensorIterator result_and(const Tensors&... inputs) {
  at::TensorIteratorConfig config;
  config.add_owned_output(at::Tensor());
  (config.add_const_input(inputs), ...);
  return config.build();
}

}  // namespace torchnotes
