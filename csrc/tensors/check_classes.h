// Validates the arguments of cross-entropy with torch's error messages, before anything is allocated or written.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "tensors/operands.h"

namespace torchnotes {

// The target holds either a probability per class or a class index.
inline bool has_probabilities(const at::Tensor& input, const at::Tensor& target) {
  return input.sizes() == target.sizes();
}

inline std::vector<int64_t> shape_of_losses(const at::Tensor& input) {
  std::vector<int64_t> shape = input.sizes().vec();
  shape.erase(shape.begin() + (input.dim() > 1));
  return shape;
}

// The multi-index of an element in a tensor of this shape.
inline std::vector<int64_t> position_of(int64_t element, at::IntArrayRef shape) {
  std::vector<int64_t> position(shape.size());
  for (size_t i = shape.size(); i-- > 0; element /= shape[i]) {
    position[i] = element % shape[i];
  }
  return position;
}

template <class index_t>
void check_range(const at::Tensor& target, int64_t classes, int64_t ignore_index) {
  const at::Tensor dense = target.contiguous();
  const index_t* const index = dense.const_data_ptr<index_t>();
  for (int64_t i = 0; i < dense.numel(); ++i) {
    const int64_t t = index[i];
    if (C10_UNLIKELY((t < 0 || t >= classes) && t != ignore_index)) {
      TORCH_CHECK_INDEX(
          false,
          "Target ",
          t,
          " is out of bounds: expected an index of one of ",
          classes,
          " classes or ignore_index = ",
          ignore_index,
          " at ",
          at::IntArrayRef(position_of(i, target.sizes())),
          "."
      );
    }
  }
}

// Call this after check_classes. On other devices than the CPU it would synchronize: an invalid target gives NaN there.
inline void check_indices_in_range(const at::Tensor& input, const at::Tensor& target, int64_t ignore_index) {
  if (!target.is_cpu() || has_probabilities(input, target)) {
    return;
  }
  const int64_t classes = input.size(input.dim() > 1);
  if (target.scalar_type() == at::kLong) {
    check_range<int64_t>(target, classes, ignore_index);
  } else {
    check_range<uint8_t>(target, classes, ignore_index);
  }
}

inline void check_indices(const at::Tensor& input, const at::Tensor& target) {
  if (input.dim() > 1) {
    const int64_t batch = target.dim() == 0 ? 0 : target.size(0);
    TORCH_CHECK_VALUE(
        batch == input.size(0),
        "Expected input batch_size (",
        input.size(0),
        ") to match target batch_size (",
        batch,
        ")."
    );
    TORCH_CHECK_INDEX(target.dim() > 0, "Dimension specified as 0 but tensor has no dimensions");
  }
  if (input.dim() > 2) {
    const std::vector<int64_t> expected = shape_of_losses(input);
    TORCH_CHECK(
        target.sizes() == at::IntArrayRef(expected),
        "Expected target size ",
        at::IntArrayRef(expected),
        ", got ",
        target.sizes()
    );
  } else {
    TORCH_CHECK(target.dim() <= 1, "0D or 1D target tensor expected, multi-target not supported");
  }
  TORCH_CHECK(
      target.scalar_type() == at::kLong || target.scalar_type() == at::kByte,
      "expected target dtype to be Long or Byte, but got ",
      target.scalar_type()
  );
  TORCH_CHECK_VALUE(
      input.dim() > 1 || target.numel() == 1,
      "For 1D input, 1D target must have size 1, but got target size: ",
      target.numel()
  );
}

inline void check_classes(
    const at::Tensor& input,
    const at::Tensor& target,
    const std::optional<at::Tensor>& weight,
    int64_t ignore_index,
    double label_smoothing
) {
  const at::ScalarType type = input.scalar_type();
  TORCH_CHECK_NOT_IMPLEMENTED(
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16,
      "\"torchnotes::cross_entropy\" not implemented for '",
      type,
      "'"
  );
  TORCH_CHECK(
      !has_probabilities(input, target) || at::isFloatingType(target.scalar_type()),
      "Expected floating point type for target with class probabilities, got ",
      target.scalar_type()
  );
  TORCH_CHECK_INDEX(input.dim() > 0, "Dimension specified as 0 but tensor has no dimensions");
  const int64_t classes = input.size(input.dim() > 1);
  check_same_device(input, target);
  TORCH_CHECK(
      label_smoothing >= 0.0 && label_smoothing <= 1.0,
      "label_smoothing must be between 0.0 and 1.0. Got: ",
      label_smoothing
  );
  const bool probabilities = has_probabilities(input, target);
  if (!probabilities) {
    check_indices(input, target);
  }
  if (weight && weight->defined()) {
    TORCH_CHECK(
        weight->dim() == 1 && weight->numel() == classes,
        probabilities ? "cross_entropy: " : "",
        "weight tensor should be defined either for all ",
        classes,
        " classes or no classes but got weight tensor of shape: ",
        weight->sizes()
    );
    TORCH_CHECK(
        probabilities ? !weight->is_complex() : at::isFloatingType(weight->scalar_type()),
        "expected scalar type ",
        input.scalar_type(),
        " but found ",
        weight->scalar_type()
    );
    check_same_device(input, *weight);
  }
  TORCH_CHECK(!probabilities || ignore_index < 0, "ignore_index is not supported for floating point target");
}

}  // namespace torchnotes
