// The channels of a tensor (N, C, ...) as rows or columns for the traversals, and checks of per-channel tensors.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

#include <optional>

#include "loops/row_shape.h"
#include "tensors/operands.h"

namespace torchnotes {

// The memory format of x if it is dense, otherwise the one that its strides suggest.
inline at::MemoryFormat channels_format(const at::Tensor& x) {
  for (const auto format :
       {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast, at::MemoryFormat::ChannelsLast3d}) {
    if (x.is_contiguous(format)) {
      return format;
    }
  }
  return x.suggest_memory_format();
}

// The channels of a nonempty tensor, in contiguous or channels-last memory, whichever torch would return.
class ChannelRows {
 public:
  explicit ChannelRows(const at::Tensor& x) : ChannelRows(x, channels_format(x)) {}
  ChannelRows(const at::Tensor& x, at::MemoryFormat format) : format_(format), dense_(x.contiguous(format)) {
    const int64_t channels = x.size(1), batch = x.size(0), n = x.numel() / channels;
    columns_ = format_ != at::MemoryFormat::Contiguous || n == batch;
    shape_ = columns_ ? RowShape{channels, 1, n, channels} : RowShape{channels, batch, n / batch};
  }

  const at::Tensor& dense() const { return dense_; }
  at::MemoryFormat format() const { return format_; }
  const RowShape& shape() const { return shape_; }
  bool columns() const { return columns_; }
  int64_t count() const { return shape_.rows; }
  int64_t size() const { return shape_.segments * shape_.length; }  // elements per channel
  bool has_layout(const at::Tensor& x) const { return x.is_contiguous(format_); }
  at::Tensor to_layout(const at::Tensor& x) const { return x.contiguous(format_); }

  RowOperand read(const at::Tensor& x) const { return shape_.each(x.const_data_ptr(), x.scalar_type()); }
  RowOperand write(const at::Tensor& x) const { return shape_.each(x.mutable_data_ptr(), x.scalar_type()); }

 private:
  at::MemoryFormat format_;
  at::Tensor dense_;
  RowShape shape_;
  bool columns_;
};

inline at::ScalarType precise(const at::Tensor& x) { return at::toOpMathType(x.scalar_type()); }

// Call these checks before writing anything.
inline void check_channels(const at::Tensor& x) {
  TORCH_CHECK(x.dim() >= 2 && x.numel() > 0, "batch_norm: expected a nonempty input (N, C, ...), got size ", x.sizes());
}

inline void check_channel_numbers(const at::Tensor& x, const char* name, const std::optional<at::Tensor>& numbers) {
  if (!numbers) {
    return;
  }
  TORCH_CHECK(numbers->numel() == x.size(1), name, " should contain ", x.size(1), " elements not ", numbers->numel());
  TORCH_CHECK(
      numbers->scalar_type() == x.scalar_type() || numbers->scalar_type() == precise(x),
      "batch_norm: expected ",
      name,
      " of dtype ",
      precise(x),
      precise(x) == x.scalar_type() ? "" : " or the input's",
      " for an input of dtype ",
      x.scalar_type(),
      ", got ",
      numbers->scalar_type()
  );
  check_same_device(x, *numbers);
}

inline void check_running(const at::Tensor& x, const char* name, const std::optional<at::Tensor>& statistic) {
  check_channel_numbers(x, name, statistic);
  TORCH_CHECK(
      !statistic || statistic->dim() == 1, name, " should have 1 dimension, not ", statistic ? statistic->dim() : 0
  );
}

// Per-channel values in the accumulation type, or an undefined tensor if there are none.
inline at::Tensor precise_numbers(const at::Tensor& x, const std::optional<at::Tensor>& numbers) {
  return numbers ? numbers->to(precise(x)).contiguous() : at::Tensor();
}

}  // namespace torchnotes
