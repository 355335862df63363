// An activation as a stage of another operation: it is applied to a tile of numbers, by functions that are compiled
// once per activation.
#pragma once

#include <cstdint>

#include "formulas/activations.h"
#include "loops/cpu/row_functions.h"

namespace torchnotes {

template <class T>
struct Stage {
  static constexpr int64_t kSize = Vectorized<T>::size();
  using Map = decltype(RowFunctions<T>::map);

  double options[kMaxOptions];
  Map forward, backward, backward_of_output;
  bool of_input;  // whether `backward` accepts the input of the activation

  // y <- f(z), for n elements; y may be z.
  void activate(int64_t n, const T* z, T* y) const { call(forward, n, y, z); }

  // d <- g f'(z), for n elements. Overwrites z.
  void differentiate(int64_t n, const T* g, T* z, T* d) const {
    if (!of_input) {
      activate(n, z, z);
    }
    call(backward, n, d, g, z);
  }

  // The same from the output.
  void differentiate_output(int64_t n, const T* g, const T* y, T* d) const { call(backward_of_output, n, d, g, y); }

 private:
  template <class... In>
  void call(Map map, int64_t n, T* out, const In*... in) const {
    Run<T> run;
    run.in = {typename Inputs<T>::Input{in, kSize}...};
    run.n = n / kSize;
    run.tail = n % kSize;
    alignas(64) const T no_formula[kSize] = {};
    map(options, no_formula, run, {out, 0});
  }
};

// Compiled in kernels/activations.cpp.
template <class T>
Stage<T> stage_of(int64_t activation, double negative_slope);

}  // namespace torchnotes
