// The type in which elements are processed.
#pragma once

#include <c10/core/ScalarType.h>

namespace torchnotes {

// Calls f with a zero of type double for double, otherwise of type float.
template <class F>
inline void with_precision(c10::ScalarType type, const F& f) {
  type == c10::ScalarType::Double ? f(double(0)) : f(float(0));
}

}  // namespace torchnotes
