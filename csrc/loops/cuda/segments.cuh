// The interface of loops/cpu/segments.h: on CUDA these are rows like others.
#pragma once

#include "loops/cuda/rows.cuh"

namespace torchnotes {

template <class T, class Op, class... In>
void reduce_segments(c10::Device device, const RowShape& shape, const Op& op, const In&... in) {
  reduce_rows<T>(device, shape, op, in...);
}

template <class T, class Op, class... In>
void map_segments(c10::Device device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  map_rows<T>(device, shape, op, out, in...);
}

template <class T, class Op, class... In>
void transform_segments(
    c10::Device device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in
) {
  transform_rows<T>(device, shape, op, out, in...);
}

template <class T, class Op, class... In>
void reduce_and_map_segments(
    c10::Device device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in
) {
  transform_rows<T>(device, shape, op, out, in...);
}

}  // namespace torchnotes
