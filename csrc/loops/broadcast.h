// Operands that broadcast (elements.h).
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/macros/Macros.h>

#include <array>
#include <cstdint>

namespace torchnotes {

constexpr int kMaxOperands = 6;

struct BroadcastOperand {
  const void* data;
  c10::ScalarType type;
  int64_t repeats, count;

  C10_HOST_DEVICE int64_t index(int64_t i) const { return repeats == 1 && i < count ? i : i / repeats % count; }
};

// The inputs of an elementwise operation.
struct ElementwiseInputs {
  int64_t size;  // elements
  int count = 0;
  std::array<BroadcastOperand, kMaxOperands> operands;
};

}  // namespace torchnotes
