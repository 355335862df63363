// The tensors of an update rule, on either device: parameters, their gradients and their states.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/view_as_real.h>
#include <c10/macros/Macros.h>

#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace torchnotes {

// The global index of the elements of a shard of a parameter, which determines their random words. The shard consists
// of rows of `length` elements, each starting `pitch` elements after the one before.
struct GlobalIndex {
  int64_t first = 0, length = std::numeric_limits<int64_t>::max(), pitch = 0;

  C10_HOST_DEVICE int64_t operator()(int64_t i) const {
    return i < length ? first + i : first + i / length * pitch + i % length;
  }
};

// The options of an update besides its rule. The tensors hold numbers on the device, so that nothing synchronizes.
struct UpdateOptions {
  double lr;
  const std::optional<at::Tensor>& device_lr;
  bool maximize;
  std::optional<int64_t> stream;  // round stochastically, by random numbers of this stream
  double max_grad_norm;
  const std::optional<at::Tensor>&grad_norm, &grad_scale, &found_inf;
  at::IntArrayRef places;  // first, length and pitch of each parameter in the full tensor; or empty

  GlobalIndex global_index(size_t i) const {
    return places.empty() ? GlobalIndex{} : GlobalIndex{places[3 * i], places[3 * i + 1], places[3 * i + 2]};
  }
};

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

// Increments the step and returns it.
inline double advance(const at::Tensor& step) {
  return step.scalar_type() == at::kFloat ? ++*step.mutable_data_ptr<float>() : ++*step.mutable_data_ptr<double>();
}

// Whether x has plain memory: it is neither a conjugate or negative view nor a zero tensor without memory.
inline bool is_plain(const at::Tensor& x) { return !x.is_conj() && !x.is_neg() && !x._is_zerotensor(); }

// Lists of tensors. The first list holds the parameters; the others have one tensor per parameter, with the same size
// and strides. Tensors with other strides are replaced by dense copies until `write_back`, complex ones by views of
// their real and imaginary parts. The lists must outlive this object: counting references to a hundred small tensors
// would take as long as updating them.
class Parameters {
 public:
  explicit Parameters(at::TensorList params) : given_(params) {
    lists_.emplace_back();
    for (const at::Tensor& w : params) {
      TORCH_CHECK(
          w.scalar_type() == params[0].scalar_type() && w.device() == params[0].device(),
          "torchnotes: expected parameters of one dtype and device, got ",
          params[0].scalar_type(),
          " on ",
          params[0].device(),
          " and ",
          w.scalar_type(),
          " on ",
          w.device()
      );
      check_no_overlap(w);
      const bool dense = w.is_non_overlapping_and_dense() && is_plain(w);
      dense_.push_back(dense ? &w : &copy(w, at::empty_like(w), /*written=*/true));
      lists_[0].push_back(real(*dense_.back()));
    }
  }

  void add(at::TensorList list, const char* what, bool written = true) {
    TORCH_CHECK(
        list.size() == given_.size(),
        "torchnotes: expected a ",
        what,
        " for each of ",
        given_.size(),
        " parameters, got ",
        list.size()
    );
    lists_.emplace_back();
    for (size_t i = 0; i < list.size(); ++i) {
      const at::Tensor &x = list[i], &w = *dense_[i];
      check_like_parameter(given_[i], x, what);
      if (written) {
        check_no_overlap(x);
      }
      const at::Tensor* const dense =
          same_strides(x, w) ? &x : &copy(x, at::empty_strided(w.sizes(), w.strides(), x.options()), written);
      lists_.back().push_back(real(*dense));
    }
  }

  size_t size() const { return given_.size(); }
  size_t lists() const { return lists_.size(); }
  const at::Tensor& operator()(size_t list, size_t i) const { return *lists_[list][i]; }

  void write_back() const {
    for (const auto& [tensor, copy] : written_) {
      tensor->copy_(*copy);
    }
  }

 private:
  // The strides of dimensions of size 1 mean nothing.
  static bool same_strides(const at::Tensor& x, const at::Tensor& other) {
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

  const at::Tensor* real(const at::Tensor& x) {
    return x.is_complex() ? &copies_.emplace_back(at::view_as_real(x)) : &x;
  }

  at::TensorList given_;
  std::deque<at::Tensor> copies_;                      // a deque, so that pointers to elements stay valid
  std::vector<const at::Tensor*> dense_;               // the parameters or their dense copies
  std::vector<std::vector<const at::Tensor*>> lists_;  // [list][parameter]
  std::vector<std::pair<const at::Tensor*, const at::Tensor*>> written_;
};

}  // namespace torchnotes
