// The operands of an elementwise operation.
#pragma once

#include <c10/core/ScalarType.h>

#include <array>
#include <cstdint>

namespace torchnotes {

struct MapOperands {
  static constexpr int kMaxInputs = 3, kMaxDims = 16;

  int64_t n;  // elements
  c10::ScalarType type;
  void* out;
  std::array<const void*, kMaxInputs> in;

  // If the operands are not dense and alike: their dimensions, innermost first, and the strides of the output and of
  // each input, in elements.
  int dims = 0;
  std::array<int64_t, kMaxDims> sizes;
  std::array<std::array<int64_t, kMaxDims>, 1 + kMaxInputs> strides;
};

}  // namespace torchnotes
