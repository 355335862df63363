// The activations by number.
#pragma once

#include <c10/util/Exception.h>

#include "formulas/activation.h"

namespace torchnotes {

constexpr int64_t kIdentity = 0, kLeakyReLU = 2;  // the other numbers appear in the switch only

// Calls f(activation). The numbers are those of ACTIVATIONS in torchnotes/ops/activations/__init__.py.
template <class F>
void with_activation(int64_t number, double negative_slope, const F& f) {
  switch (number) {
    case kIdentity:
      return f(ActivationLeakyReLU{{1}});
    case 1:
      return f(ActivationReLU());
    case kLeakyReLU:
      return f(ActivationLeakyReLU{{negative_slope}});
    case 3:
      return f(ActivationSigmoid());
    case 4:
      return f(ActivationTanh());
    default:
      TORCH_CHECK_VALUE(false, "torchnotes: expected the number of an activation, got ", number);
  }
}

}  // namespace torchnotes
