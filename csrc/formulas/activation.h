// The activations y = f(z) that other operations end with, with their backward, g f'(z), as a function of z or of y.
// Each derivation stands in its own header. The identity is the leaky rectifier of slope 1; of one with a slope below 0
// the output tells nothing.
#pragma once

#include "leaky_relu.h"
#include "portable.h"
#include "relu.h"
#include "sigmoid.h"
#include "tanh.h"

namespace torchnotes {

// Of the rectifiers z and y are positive together: the backward is one function, of either.
struct ActivationReLU : ReLU {
  template <class T>
  C10_HOST_DEVICE T backward_of_output(T g, T y) const {
    return ReLUBackward()(y, g);
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T z) const {
    return backward_of_output(g, z);
  }
};

struct ActivationLeakyReLU : LeakyReLU {
  template <class T>
  C10_HOST_DEVICE T backward_of_output(T g, T y) const {
    return LeakyReLUBackward{negative_slope}(y, g);
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T z) const {
    return backward_of_output(g, z);
  }
};

struct ActivationSigmoid : Sigmoid {
  template <class T>
  C10_HOST_DEVICE T backward_of_output(T g, T y) const {
    return SigmoidBackward()(g, y);
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T z) const {
    return backward_of_output(g, Sigmoid()(z));
  }
};

struct ActivationTanh : Tanh {
  template <class T>
  C10_HOST_DEVICE T backward_of_output(T g, T y) const {
    return TanhBackward()(g, y);
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T z) const {
    return backward_of_output(g, Tanh()(z));
  }
};

}  // namespace torchnotes
