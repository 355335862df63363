// The activations y = f(z) that other operations end with, and their backward, g f'(z), as a function of y or of z.
// Each derivation is in its own header. The identity is the leaky rectifier of slope 1. With a negative slope the
// output does not determine the derivative.
#pragma once

#include "leaky_relu.h"
#include "portable.h"
#include "relu.h"
#include "sigmoid.h"
#include "tanh.h"

namespace torchnotes {

struct ActivationReLU : ReLU {
  static constexpr bool kRectifies = true;
  template <class T>
  C10_HOST_DEVICE T backward_of_output(T g, T y) const {
    return ReLUBackward()(y, g);
  }
};

struct ActivationLeakyReLU : LeakyReLU {
  static constexpr bool kRectifies = true;
  template <class T>
  C10_HOST_DEVICE T backward_of_output(T g, T y) const {
    return LeakyReLUBackward{negative_slope}(y, g);
  }
};

struct ActivationSigmoid : Sigmoid {
  static constexpr bool kRectifies = false;
  template <class T>
  C10_HOST_DEVICE T backward_of_output(T g, T y) const {
    return SigmoidBackward()(g, y);
  }
};

struct ActivationTanh : Tanh {
  static constexpr bool kRectifies = false;
  template <class T>
  C10_HOST_DEVICE T backward_of_output(T g, T y) const {
    return TanhBackward()(g, y);
  }
};

// A rectifier needs only the sign of y, which is that of z.
template <class F, class T>
C10_HOST_DEVICE T backward_of_input(const F& f, T g, T z) {
  if constexpr (F::kRectifies) {
    return f.backward_of_output(g, z);
  } else {
    return f.backward_of_output(g, f(z));
  }
}

}  // namespace torchnotes
