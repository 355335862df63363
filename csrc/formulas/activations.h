// The table of activations y = f(z). Each has a header of its own, with
//
//   forward(z) = f(z)
//   backward(g, r) = g p(r)           p(r) = f'(z), where r is the tensor that is saved: y or, if kSavesInput, z
//   curvature(v, g, r) = v g p'(r)    absent if it is 0
//
// If it saves its input, `backward_of_output` computes g f'(z) from g and y, for operations that end with f and save y.
//
// Its members are the options, all of them doubles. A rectifier (kRectifies) has a backward that needs only the sign of
// r, which is that of both y and z.
#pragma once

#include <cstddef>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "formulas/leaky_relu.h"
#include "formulas/portable.h"
#include "formulas/relu.h"
#include "formulas/sigmoid.h"
#include "formulas/softplus.h"
#include "formulas/tanh.h"

namespace torchnotes {

struct Identity {
  static constexpr const char* kName = "identity";
  static constexpr bool kRectifies = true;
  template <class T>
  C10_HOST_DEVICE T forward(T z) const {
    return z;
  }
  template <class T>
  C10_HOST_DEVICE T backward(T g, T) const {
    return g;
  }
};

// By number. Python has the same table (torchnotes/ops/activations/__init__.py).
using Activations = std::tuple<Identity, ReLU, LeakyReLU, Sigmoid, Tanh, Softplus>;

constexpr int kMaxOptions = 2;

template <class Activation, int i = 0>
constexpr int number_of() {
  if constexpr (std::is_same_v<std::tuple_element_t<i, Activations>, Activation>) {
    return i;
  } else {
    return number_of<Activation, i + 1>();
  }
}

template <class Activation>
C10_HOST_DEVICE Activation activation_with(const double* options) {
  Activation f;
  if constexpr (!std::is_empty_v<Activation>) {
    static_assert(sizeof(Activation) <= kMaxOptions * sizeof(double));
    std::memcpy(static_cast<void*>(&f), options, sizeof(Activation));
  }
  return f;
}

// An activation that ends another operation. Only the negative slope can be chosen.
template <class Activation>
C10_HOST_DEVICE Activation fused_activation(double negative_slope) {
  if constexpr (std::is_same_v<Activation, LeakyReLU>) {
    return {negative_slope};
  } else {
    return {};
  }
}

template <class Activation>
constexpr bool saves_input() {
  return requires { Activation::kSavesInput; };
}
template <class Activation>
constexpr bool rectifies() {
  return requires { Activation::kRectifies; };
}

template <class Activation, class T>
C10_HOST_DEVICE T backward_of_output(const Activation& f, T g, T y) {
  if constexpr (saves_input<Activation>()) {
    return f.backward_of_output(g, y);
  } else {
    return f.backward(g, y);
  }
}

template <class Activation, class T>
C10_HOST_DEVICE T backward_of_input(const Activation& f, T g, T z) {
  if constexpr (saves_input<Activation>() || rectifies<Activation>()) {
    return f.backward(g, z);
  } else {
    return f.backward(g, f.forward(z));
  }
}

// Calls f with the activation of a number that ends another operation, or with the identity if there is none.
template <int i = 0, class F>
C10_HOST_DEVICE inline void with_fused_activation(int64_t number, double negative_slope, const F& f) {
  if constexpr (i + 1 < std::tuple_size_v<Activations>) {
    if (number != i) {
      with_fused_activation<i + 1>(number, negative_slope, f);
      return;
    }
  }
  f(fused_activation<std::tuple_element_t<i, Activations>>(negative_slope));
}

}  // namespace torchnotes
