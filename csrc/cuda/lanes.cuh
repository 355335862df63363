// The row drivers for interleaved rows: one thread per row, so that neighboring threads read neighboring elements.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/ceil_div.h>

#include <type_traits>

#include "../row_shape.h"
#include "launch.cuh"
#include "packet.cuh"

namespace torchnotes {
namespace {

constexpr int kLaneThreads = 128;

// Element j of a row, or of the segment that all rows share, such as a weight per class.
template <class In>
__device__ inline at::opmath_type<In> element(const RowOperand<const In>& x, int64_t row, int64_t j) {
  return static_cast<at::opmath_type<In>>(x.strided_row(x.row_stride == 0 ? 0 : row)[j * x.interleaved]);
}

template <class Op, class... In>
__device__ inline auto reduce_lane(
    const RowShape& shape, const Op& op, int64_t row, const RowOperand<const In>&... in
) {
  auto state = op.template start<AccOf<In...>>(row);
  const auto constants = row_constants(op, row);
  for (int64_t j = 0; j < shape.length; ++j) {
    add_elements(op, state, constants, element(in, row, j)...);
  }
  return state;
}

template <class Op, class Formula, class scalar_t, class... In>
__device__ inline void map_lane(
    const RowShape& shape,
    const Op& op,
    const Formula& f,
    int64_t row,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  for (int64_t j = 0; j < shape.length; ++j) {
    out.strided_row(row)[j * out.interleaved] = static_cast<scalar_t>(op.value(f, element(in, row, j)...));
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

template <class Op, class... In>
__global__ void __launch_bounds__(kLaneThreads) reduce_lanes_kernel(RowShape shape, Op op, RowOperand<const In>... in) {
  for_own_rows(shape, [&](int64_t row) { op.finish(row, reduce_lane(shape, op, row, in...)); });
}

template <class Op, class scalar_t, class... In>
__global__ void __launch_bounds__(kLaneThreads) map_lanes_kernel(
    RowShape shape, Op op, RowOperand<scalar_t> out, RowOperand<const In>... in
) {
  for_own_rows(shape, [&](int64_t row) { map_lane(shape, op, op.formula(row), row, out, in...); });
}

template <class Op, class scalar_t, class... In>
__global__ void __launch_bounds__(kLaneThreads) transform_lanes_kernel(
    RowShape shape, Op op, RowOperand<scalar_t> out, RowOperand<const In>... in
) {
  for_own_rows(shape, [&](int64_t row) {
    map_lane(shape, op, op.finish(row, reduce_lane(shape, op, row, in...)), row, out, in...);
  });
}

template <class Kernel, class... Arguments>
void launch_lanes(c10::Device device, const RowShape& shape, Kernel kernel, const Arguments&... arguments) {
  launch(device, at::ceil_div<int64_t>(shape.rows, kLaneThreads), kLaneThreads, kernel, shape, arguments...);
}

}  // namespace
}  // namespace torchnotes
