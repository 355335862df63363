// Operands that broadcast, without copies (loops/elements.h).
#pragma once

#include <ATen/ExpandUtils.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <numeric>

#include "loops/broadcast.h"
#include "tensors/operands.h"

namespace torchnotes {

struct Operand {
  at::Tensor tensor;
  int64_t repeats, count;
  BroadcastOperand plain() const { return {tensor.const_data_ptr(), tensor.scalar_type(), repeats, count}; }
};

// The elements of a dense copy of x in memory order, or of x itself if it is dense. An operand that broadcasts in
// another way than in loops/elements.h is copied.
class Elements {
 public:
  explicit Elements(const at::Tensor& x)
      : dense_(x.is_non_overlapping_and_dense() ? x : x.clone(at::MemoryFormat::Preserve)) {
    if (!dense_.is_contiguous()) {
      outermost_first_.resize(x.dim());
      std::iota(outermost_first_.begin(), outermost_first_.end(), 0);
      std::stable_sort(outermost_first_.begin(), outermost_first_.end(), [this](int64_t a, int64_t b) {
        return dense_.stride(a) > dense_.stride(b);
      });
    }
  }

  const at::Tensor& tensor() const { return dense_; }
  int64_t size() const { return dense_.numel(); }
  Operand operand() const { return {dense_, 1, size()}; }

  // Another operand, which may broadcast to x. Call it before anything is written.
  Operand operand(const at::Tensor& other) const {
    check_same_type(dense_, other);
    return in_order(other);
  }
  // The same, for numbers of any dtype.
  Operand operand_of_numbers(const at::Tensor& numbers) const { return in_order(numbers); }

 private:
  Operand in_order(const at::Tensor& x) const {
    if (x.sizes() == dense_.sizes() && x.strides() == dense_.strides()) {
      return {x, 1, size()};
    }
    TORCH_CHECK(
        at::is_expandable_to(x.sizes(), dense_.sizes()),
        "torchnotes: cannot broadcast an operand of size ",
        x.sizes(),
        " to the input's size ",
        dense_.sizes()
    );
    at::Tensor y = x.expand(dense_.sizes());
    if (!outermost_first_.empty()) {
      y = y.permute(outermost_first_);
    }
    int64_t repeats = 1, count = 1, dim = y.dim() - 1;
    for (; dim >= 0 && (y.size(dim) == 1 || y.stride(dim) == 0); --dim) {
      repeats *= y.size(dim);
    }
    for (; dim >= 0 && (y.size(dim) == 1 || y.stride(dim) == count); --dim) {
      count *= y.size(dim);
    }
    for (; dim >= 0 && (y.size(dim) == 1 || y.stride(dim) == 0); --dim) {
    }
    if (dim >= 0) {
      return {y.contiguous(), 1, size()};
    }
    return {y, count == 1 ? 1 : repeats, count};
  }

  at::Tensor dense_;
  at::DimVector outermost_first_;  // empty if contiguous
};

}  // namespace torchnotes
