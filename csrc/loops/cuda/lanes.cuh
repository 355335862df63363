// The traversals of interleaved rows: one thread per row, so that neighboring threads read neighboring elements.
#pragma once

#include <ATen/ceil_div.h>

#include "loops/cuda/launch.cuh"
#include "loops/cuda/typed.cuh"
#include "loops/row_shape.h"

namespace torchnotes {

constexpr int kLaneThreads = 128;

template <class T, class Op, class... In>
__device__ inline StateOf<Op, T> reduce_lane(const RowShape& shape, const Op& op, int64_t row, const Typed<In>&... in) {
  StateOf<Op, T> state = op.template start<T>(row);
  const auto constants = row_constants(op, row);
  for (int64_t j = 0; j < shape.length; ++j) {
    add_elements(op, state, constants, static_cast<T>(in.at(row, j))...);
  }
  return state;
}

template <class T, class Op, class Formula, class Out, class... In>
__device__ inline void map_lane(
    const RowShape& shape, const Op& op, const Formula& f, int64_t row, const Typed<Out>& out, const Typed<In>&... in
) {
  for (int64_t j = 0; j < shape.length; ++j) {
    out.at(row, j) = static_cast<Out>(op.value(f, static_cast<T>(in.at(row, j))...));
  }
  patch_target(op, row, f, 0);
}

template <class F>
__device__ inline void for_own_rows(const RowShape& shape, const F& f) {
  const int64_t threads = int64_t(gridDim.x) * blockDim.x;
  for (int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; row < shape.rows; row += threads) {
    f(row);
  }
}

template <class T, class Op, class... In>
__global__ void __launch_bounds__(kLaneThreads) reduce_lanes_kernel(RowShape shape, Op op, Typed<In>... in) {
  for_own_rows(shape, [&](int64_t row) { op.finish(row, reduce_lane<T>(shape, op, row, in...)); });
}

template <class T, class Op, class Out, class... In>
__global__ void __launch_bounds__(kLaneThreads) map_lanes_kernel(
    RowShape shape, Op op, Typed<Out> out, Typed<In>... in
) {
  for_own_rows(shape, [&](int64_t row) { map_lane<T>(shape, op, op.formula(row), row, out, in...); });
}

template <class T, class Op, class Out, class... In>
__global__ void __launch_bounds__(kLaneThreads) transform_lanes_kernel(
    RowShape shape, Op op, Typed<Out> out, Typed<In>... in
) {
  for_own_rows(shape, [&](int64_t row) {
    map_lane<T>(shape, op, op.finish(row, reduce_lane<T>(shape, op, row, in...)), row, out, in...);
  });
}

template <class Kernel, class... Arguments>
void launch_lanes(c10::Device device, const RowShape& shape, Kernel kernel, const Arguments&... arguments) {
  launch(device, at::ceil_div<int64_t>(shape.rows, kLaneThreads), kLaneThreads, kernel, shape, arguments...);
}

}  // namespace torchnotes
