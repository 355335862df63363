// Fills or multiplies tensors with random numbers, on either device. Include it after the driver. Draws are numbered by
// the logical index of the element, whatever the memory layout.
#pragma once

#include <ATen/ops/empty_like.h>

#include "keys.h"
#include "operands.h"

namespace torchnotes {
namespace {

template <class Store, class Draw>
void write_draws_(const Store& store, const Draw& draw, const at::Tensor& self, const at::Tensor& keys, Place place) {
  const Parts parts(self, keys, place);
  const at::Tensor in_order = self.contiguous();
  for_each_draw(store, draw, parts, in_order, in_order);
  if (!self.is_contiguous()) {
    self.copy_(in_order);
  }
}

// x_i <- draw_i
template <class Draw>
void fill_(const Draw& draw, const at::Tensor& self, const at::Tensor& keys, Place place) {
  write_draws_(Fill{}, draw, self, keys, place);
}

// x_i <- draw_i x_i
template <class Draw>
void multiply_(const Draw& draw, const at::Tensor& self, const at::Tensor& keys, Place place) {
  write_draws_(Multiply{}, draw, self, keys, place);
}

// draw_i x_i, with the layout of torch's empty_like.
template <class Draw>
at::Tensor multiply(const Draw& draw, const at::Tensor& input, const at::Tensor& keys, Place place) {
  const Parts parts(input, keys, place);
  const at::Tensor in_order = input.contiguous();
  const at::Tensor result = input.is_contiguous() ? empty_like_dense(input) : at::empty_like(input);
  const at::Tensor out = result.is_contiguous() ? result : empty_like_dense(in_order);
  for_each_draw(Multiply{}, draw, parts, out, in_order);
  return out.is_same(result) ? result : result.copy_(out);
}

}  // namespace
}  // namespace torchnotes
