// What a loss says of one element, and of many: the loss, weighted, and the weight with which it counts in the mean
//
//   mean = sum of losses / sum of weights
//
// A backward formula multiplies by g, which is a number or something finer.
#pragma once

#include <c10/macros/Macros.h>

namespace torchnotes {

template <class T>
struct Weighted {
  T loss, weight;
  C10_HOST_DEVICE void merge(const Weighted& other) {
    loss = loss + other.loss;
    weight = weight + other.weight;
  }
};

}  // namespace torchnotes
