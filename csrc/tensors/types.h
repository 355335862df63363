#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

namespace torchnotes {

// torch's error for an element type that an operator lacks.
inline void check_element_type(c10::ScalarType type, const char* name) {
  using c10::ScalarType;
  TORCH_CHECK_NOT_IMPLEMENTED(
      type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
          type == ScalarType::BFloat16,
      '"',
      name,
      "\" not implemented for '",
      type,
      "'"
  );
}

}  // namespace torchnotes
