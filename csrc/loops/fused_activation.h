// The activation that ends another operation. with_activation<T>(number, negative_slope, f) calls f with it.
//
// On the CPU the usual activations are compiled into the operation's loops, where even one more access to L1 would
// show; the others are stages (cpu/stage.h). On CUDA they are branches of one function, uniform over all threads.
#pragma once

#include <cstdint>

#include "formulas/activations.h"

#ifndef TORCHNOTES_SCALAR_ONLY
#include "loops/cpu/stage.h"
#endif

namespace torchnotes {

#ifdef TORCHNOTES_SCALAR_ONLY

struct AnyActivation {
  int64_t number;
  double negative_slope;

  template <class T>
  C10_HOST_DEVICE T forward(T z) const {
    T y = z;
    with_fused_activation(number, negative_slope, [&](const auto& f) { y = f.forward(z); });
    return y;
  }
};

template <class T>
C10_HOST_DEVICE T backward_of_output(const AnyActivation& any, T g, T y) {
  T d = g;
  with_fused_activation(any.number, any.negative_slope, [&](const auto& f) { d = backward_of_output(f, g, y); });
  return d;
}

template <class T>
C10_HOST_DEVICE T backward_of_input(const AnyActivation& any, T g, T z) {
  T d = g;
  with_fused_activation(any.number, any.negative_slope, [&](const auto& f) { d = backward_of_input(f, g, z); });
  return d;
}

template <class Activation>
inline constexpr bool kIsStaged = false;

template <class T, class F>
void with_activation(int64_t number, double negative_slope, const F& f) {
  f(AnyActivation{number, negative_slope});
}

template <class T>
AnyActivation activation_for_tiles(int64_t number, double negative_slope) {
  return {number, negative_slope};
}

#else

template <class Activation>
inline constexpr bool kIsStaged = false;
template <class T>
inline constexpr bool kIsStaged<Stage<T>> = true;

template <class T>
Stage<T> activation_for_tiles(int64_t number, double negative_slope) {
  return stage_of<T>(number, negative_slope);
}

template <class T, class F>
void with_activation(int64_t number, double negative_slope, const F& f) {
  switch (number) {
    case number_of<Identity>():
      return f(Identity{});
    case number_of<ReLU>():
      return f(ReLU{});
    case number_of<LeakyReLU>():
      return f(LeakyReLU{negative_slope});
    case number_of<Sigmoid>():
      return f(Sigmoid{});
    case number_of<Tanh>():
      return f(Tanh{});
    default:
      return f(stage_of<T>(number, negative_slope));
  }
}

#endif

}  // namespace torchnotes
