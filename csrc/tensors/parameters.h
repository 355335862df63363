// The tensors of an update rule: parameters, their gradients and their states.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>

#include <deque>
#include <utility>
#include <vector>

#include "loops/parameters.h"

namespace torchnotes {

// at::assert_no_internal_overlap, but without a call into torch for a dense tensor.
inline void check_no_overlap(const at::Tensor& x) {
  if (!x.is_non_overlapping_and_dense()) {
    at::assert_no_internal_overlap(x);
  }
}

inline void check_like_parameter(const at::Tensor& w, const at::Tensor& x, const char* what) {
  TORCH_CHECK(
      x.scalar_type() == w.scalar_type() && x.device() == w.device() && x.sizes() == w.sizes() &&
          x.layout() == at::kStrided,
      "torchnotes: expected the ",
      what,
      " of a parameter to match it, ",
      w.scalar_type(),
      " on ",
      w.device(),
      " of size ",
      w.sizes(),
      ", got ",
      x.scalar_type(),
      " on ",
      x.device(),
      " of size ",
      x.sizes()
  );
}

inline void check_step(const at::Tensor& w, const at::Tensor& step) {
  TORCH_CHECK(
      step.numel() == 1 && (step.scalar_type() == at::kFloat || step.scalar_type() == at::kDouble) &&
          (step.is_cpu() || step.device() == w.device()),
      "torchnotes: expected the step of a parameter on ",
      w.device(),
      " to be one number of dtype float32 or float64 there or on the CPU, got ",
      step.scalar_type(),
      " of size ",
      step.sizes(),
      " on ",
      step.device()
  );
}

// Whether x has plain memory: it is neither a conjugate or negative view nor a zero tensor without memory.
inline bool is_plain(const at::Tensor& x) { return !x.is_conj() && !x.is_neg() && !x._is_zerotensor(); }

// Lays out lists of tensors for the kernels. All of them have one tensor per parameter, with its size and strides.
// Tensors with other strides are replaced by dense copies until `write_back`; complex ones are read as pairs of
// numbers. The lists must outlive this object: counting references to a hundred small tensors would take as long as
// updating them.
class Parameters {
 public:
  // checked: the caller has checked that the lists match.
  Parameters(at::TensorList params, bool checked) : given_(params), checked_(checked), slots_(params.size()) {
    dense_.reserve(params.size());
    for (size_t i = 0; i < params.size(); ++i) {
      const at::Tensor& w = params[i];
      if (!checked) {
        check_same_type(w);
        check_no_overlap(w);
      }
      const bool dense = w.is_non_overlapping_and_dense() && is_plain(w);
      dense_.push_back(dense ? &w : &copy(w, at::empty_like(w), /*written=*/true));
      slots_[i].w = dense_[i]->mutable_data_ptr();
      slots_[i].size = w.is_complex() ? 2 * w.numel() : w.numel();
    }
  }

  // address(slot): where the kernels look for the data.
  template <class Address>
  void add(at::TensorList list, const char* what, bool written, const Address& address) {
    TORCH_CHECK(
        list.size() == given_.size(),
        "torchnotes: expected a ",
        what,
        " for each of ",
        given_.size(),
        " parameters, got ",
        list.size()
    );
    for (size_t i = 0; i < list.size(); ++i) {
      const at::Tensor &x = list[i], &w = *dense_[i];
      if (!checked_) {
        check_like_parameter(given_[i], x, what);
        if (written) {
          check_no_overlap(x);
        }
      }
      const at::Tensor& dense =
          same_strides(x, w) ? x : copy(x, at::empty_strided(w.sizes(), w.strides(), x.options()), written);
      address(slots_[i]) = written ? dense.mutable_data_ptr() : const_cast<void*>(dense.const_data_ptr());
    }
  }

  std::vector<ParameterSlot>& slots() { return slots_; }

  void write_back() const {
    for (const auto& [tensor, copy] : written_) {
      tensor->copy_(*copy);
    }
  }

 private:
  void check_same_type(const at::Tensor& w) const {
    TORCH_CHECK(
        w.scalar_type() == given_[0].scalar_type() && w.device() == given_[0].device(),
        "torchnotes: expected parameters of one dtype and device, got ",
        given_[0].scalar_type(),
        " on ",
        given_[0].device(),
        " and ",
        w.scalar_type(),
        " on ",
        w.device()
    );
  }

  // The strides of dimensions of size 1 mean nothing.
  static bool same_strides(const at::Tensor& x, const at::Tensor& other) {
    if (x.is_contiguous() && other.is_contiguous()) {
      return is_plain(x);
    }
    for (int64_t d = 0; d < x.dim(); ++d) {
      if (x.size(d) != 1 && x.stride(d) != other.stride(d)) {
        return false;
      }
    }
    return is_plain(x);
  }

  const at::Tensor& copy(const at::Tensor& x, at::Tensor fresh, bool written) {
    copies_.push_back(std::move(fresh.copy_(x)));
    if (written) {
      written_.emplace_back(&x, &copies_.back());
    }
    return copies_.back();
  }

  at::TensorList given_;
  bool checked_;
  std::vector<ParameterSlot> slots_;
  std::vector<const at::Tensor*> dense_;  // the parameters or their dense copies
  std::deque<at::Tensor> copies_;         // a deque, so that pointers to elements stay valid
  std::vector<std::pair<const at::Tensor*, const at::Tensor*>> written_;
};

}  // namespace torchnotes
