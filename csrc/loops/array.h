#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace torchnotes {

// `size` contiguous elements.
struct Array {
  const void* data;
  int64_t size;
};

}  // namespace torchnotes
