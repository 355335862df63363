// The operands of an elementwise operation.
#pragma once

#include <c10/core/ScalarType.h>

#include <array>
#include <cstdint>

namespace torchnotes {

constexpr int kMaxMapInputs = 3;

// The dimensions of operands that are not dense and alike, innermost first, and the strides of the output and of each
// input, in elements.
struct MapLayout {
  static constexpr int kMaxDims = 64;  // none has size 1, so that no memory could hold more

  int dims;
  std::array<int64_t, kMaxDims> sizes;
  std::array<std::array<int64_t, kMaxDims>, 1 + kMaxMapInputs> strides;
};

struct MapOperands {
  int64_t n;  // elements
  c10::ScalarType type;
  void* out;
  std::array<const void*, kMaxMapInputs> in;
  const MapLayout* layout = nullptr;  // null if they are dense and alike
};

}  // namespace torchnotes
