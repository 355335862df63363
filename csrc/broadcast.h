// Operands that broadcast, on either device, without copies. In the memory order of a dense tensor, element i of
// another operand is data[(i / repeats) % count]:
//
//   of the same size                                       repeats = 1,    count = n
//   one number for all                                     repeats = 1,    count = 1
//   a weight per column (C) of a matrix (R, C)             repeats = 1,    count = C
//   a target per row (R, 1)                                repeats = C,    count = R
//   a weight per channel (C, 1, 1) of images (N, C, H, W)  repeats = H W,  count = C
//
// Any other operand is copied, which gives the first kind.
#pragma once

#include <ATen/ExpandUtils.h>
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>

#include <algorithm>
#include <numeric>

#include "operands.h"

namespace torchnotes {

template <class T>
struct Broadcast {
  using value_type = T;
  const T* data;
  int64_t repeats, count;
  C10_HOST_DEVICE int64_t place(int64_t i) const { return repeats == 1 && i < count ? i : i / repeats % count; }
};

struct Operand {
  at::Tensor tensor;
  int64_t repeats, count;
  template <class scalar_t>
  Broadcast<scalar_t> typed() const {
    return {tensor.const_data_ptr<scalar_t>(), repeats, count};
  }
};

// Numbers in the accumulation type, whatever the dtype of the tensors.
struct PreciseOperand : Operand {
  template <class scalar_t>
  Broadcast<at::opmath_type<scalar_t>> typed() const {
    return Operand::typed<at::opmath_type<scalar_t>>();
  }
};

// The elements of a dense copy of x in memory order, or of x itself if it is dense.
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
  PreciseOperand precise_operand(const at::Tensor& numbers) const { return {in_order(numbers)}; }

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
