// The row drivers for the columns of a matrix, with the interface of cpu/columns.h. The threads of a warp take
// neighboring columns; the warps of a block take turns at the elements.
//
// One block reduces a chunk of fixed length of 32 columns. Then one thread per column merges the chunks in order.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/ceil_div.h>
#include <ATen/ops/empty.h>

#include <new>

#include "rows.cuh"

namespace torchnotes {
namespace {

constexpr int kColumnThreads = 256;
constexpr int kColumnWarps = kColumnThreads / kWarp;
constexpr int64_t kChunks = 256;       // at most
constexpr int64_t kChunkLength = 128;  // elements, at least

inline int64_t chunk_length(const RowShape& shape) {
  return std::max(kChunkLength, at::ceil_div(shape.length, kChunks));
}
C10_HOST_DEVICE inline int64_t tiles(const RowShape& shape) { return at::ceil_div<int64_t>(shape.rows, kWarp); }

// Calls f(i, column, begin, end) for the i-th chunk of a column; the thread takes every kColumnWarps-th element from
// `begin` on.
template <class F>
__device__ inline void for_chunks(const RowShape& shape, int64_t length, int64_t chunks, const F& f) {
  const int64_t in_row = tiles(shape);
  for (int64_t at = blockIdx.x; at < chunks * in_row; at += gridDim.x) {
    const int64_t i = at / in_row, column = at % in_row * kWarp + threadIdx.x % kWarp;
    const int64_t end = (i + 1) * length < shape.length ? (i + 1) * length : shape.length;
    f(i, column, i * length + threadIdx.x / kWarp, end);
  }
}

template <class T>
__device__ inline at::opmath_type<T> in_column(const RowOperand<const T>& x, int64_t column, int64_t j) {
  return static_cast<at::opmath_type<T>>(x.data[j * x.interleaved + column]);
}

// Stands for the output of a pass that only reduces.
struct NoOutput {};

template <class Op, class State, class Constants, class... T>
__device__ inline void add_and_write(
    const Op& op, State& state, const Constants& constants, NoOutput, int64_t, int64_t, const T&... x
) {
  add_elements(op, state, constants, x...);
}
template <class Op, class State, class Constants, class scalar_t, class... T>
__device__ inline void add_and_write(
    const Op& op,
    State& state,
    const Constants&,
    const RowOperand<scalar_t>& out,
    int64_t column,
    int64_t j,
    const T&... x
) {
  const auto y = op.value(x...);
  out.data[j * out.interleaved + column] = static_cast<scalar_t>(y);
  op.add(state, y);
}

template <class State, class Op, class Out, class... In>
__global__ void __launch_bounds__(kColumnThreads) reduce_chunks_kernel(
    RowShape shape, int64_t length, int64_t chunks, Op op, State* parts, Out out, RowOperand<const In>... in
) {
  __shared__ Uninitialized<State> states[kColumnThreads];
  for_chunks(shape, length, chunks, [&](int64_t i, int64_t column, int64_t begin, int64_t end) {
    const bool exists = column < shape.rows;
    State state = op.template start<AccOf<In...>>(exists ? column : 0);
    if (exists) {
      const auto constants = row_constants(op, column);
      for (int64_t j = begin; j < end; j += kColumnWarps) {
        add_and_write(op, state, constants, out, column, j, in_column(in, column, j)...);
      }
    }
    __syncthreads();  // all threads have read the previous chunk
    new (states[threadIdx.x].bytes) State(state);
    __syncthreads();
    if (exists && threadIdx.x < kWarp) {
      for (int warp = 1; warp < kColumnWarps; ++warp) {
        state.merge(states[warp * kWarp + threadIdx.x].get());
      }
      new (&parts[i * shape.rows + column]) State(state);
    }
  });
}

// Calls each(column, state) for the columns of this thread, with all chunks merged.
template <class State, class F>
__device__ inline void for_merged(const RowShape& shape, int64_t chunks, const State* parts, const F& each) {
  for_own_rows(shape, [&](int64_t column) {
    State state = parts[column];
    for (int64_t i = 1; i < chunks; ++i) {
      state.merge(parts[i * shape.rows + column]);
    }
    each(column, state);
  });
}

template <class State, class Op>
__global__ void __launch_bounds__(kLaneThreads) finish_columns_kernel(
    RowShape shape, int64_t chunks, Op op, const State* parts
) {
  for_merged(shape, chunks, parts, [&](int64_t column, const State& all) { op.finish(column, all); });
}

template <class State, class Formula, class Op>
__global__ void __launch_bounds__(kLaneThreads) formulas_kernel(
    RowShape shape, int64_t chunks, Op op, const State* parts, Formula* formulas
) {
  for_merged(shape, chunks, parts, [&](int64_t column, const State& all) {
    new (&formulas[column]) Formula(op.finish(column, all));
  });
}

template <class Op, class FormulaOf, class scalar_t, class... In>
__global__ void __launch_bounds__(kColumnThreads) map_columns_kernel(
    RowShape shape,
    int64_t length,
    int64_t chunks,
    Op op,
    FormulaOf formula_of,
    RowOperand<scalar_t> out,
    RowOperand<const In>... in
) {
  for_chunks(shape, length, chunks, [&](int64_t, int64_t column, int64_t begin, int64_t end) {
    if (column < shape.rows) {
      const auto formula = formula_of(column);
      for (int64_t j = begin; j < end; j += kColumnWarps) {
        out.data[j * out.interleaved + column] = static_cast<scalar_t>(op.value(formula, in_column(in, column, j)...));
      }
    }
  });
}

template <class T>
at::Tensor scratch_for(c10::Device device, int64_t count) {
  return at::empty({count * int64_t(sizeof(T))}, at::TensorOptions(device).dtype(at::kByte));
}

// Calls f(parts, chunks) with the states of all chunks of every column.
template <class State, class Op, class F, class Out, class... In>
void reduce_chunks(
    c10::Device device,
    const RowShape& shape,
    const Op& op,
    const F& f,
    const Out& out,
    const RowOperand<const In>&... in
) {
  const int64_t length = chunk_length(shape), chunks = at::ceil_div(shape.length, length);
  const at::Tensor memory = scratch_for<State>(device, chunks * shape.rows);
  auto* const parts = static_cast<State*>(memory.mutable_data_ptr());
  const auto kernel = reduce_chunks_kernel<State, Op, Out, In...>;
  launch(device, chunks * tiles(shape), kColumnThreads, kernel, shape, length, chunks, op, parts, out, in...);
  f(static_cast<const State*>(parts), chunks);
}

template <class Op>
struct FormulaOfOp {
  Op op;
  __device__ auto operator()(int64_t column) const { return op.formula(column); }
};

template <class Formula>
struct FormulaIn {
  const Formula* formulas;
  __device__ Formula operator()(int64_t column) const { return formulas[column]; }
};

template <class Op, class FormulaOf, class scalar_t, class... In>
void map_columns_by(
    c10::Device device,
    const RowShape& shape,
    const Op& op,
    const FormulaOf& formula_of,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  const int64_t length = chunk_length(shape), chunks = at::ceil_div(shape.length, length);
  const auto kernel = map_columns_kernel<Op, FormulaOf, scalar_t, In...>;
  launch(device, chunks * tiles(shape), kColumnThreads, kernel, shape, length, chunks, op, formula_of, out, in...);
}

template <class Op, class Out, class... In>
void reduce_columns_to(
    c10::Device device, const RowShape& shape, const Op& op, const Out& out, const RowOperand<const In>&... in
) {
  using State = decltype(op.template start<AccOf<In...>>(0));
  const auto finish = [&](const State* parts, int64_t chunks) {
    const int64_t blocks = at::ceil_div<int64_t>(shape.rows, kLaneThreads);
    launch(device, blocks, kLaneThreads, finish_columns_kernel<State, Op>, shape, chunks, op, parts);
  };
  reduce_chunks<State>(device, shape, op, finish, out, in...);
}

template <class Op, class... In>
void reduce_columns(c10::Device device, const RowShape& shape, const Op& op, const RowOperand<const In>&... in) {
  reduce_columns_to(device, shape, op, NoOutput(), in...);
}

// Writes op.value(x...) for every element and reduces the values in the same pass.
template <class Op, class scalar_t, class... In>
void map_and_reduce_columns(
    c10::Device device,
    const RowShape& shape,
    const Op& op,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  reduce_columns_to(device, shape, op, out, in...);
}

template <class Op, class scalar_t, class... In>
void map_columns(
    c10::Device device,
    const RowShape& shape,
    const Op& op,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  map_columns_by(device, shape, op, FormulaOfOp<Op>{op}, out, in...);
}

template <class Op, class scalar_t, class... In>
void transform_columns(
    c10::Device device,
    const RowShape& shape,
    const Op& op,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  using State = decltype(op.template start<AccOf<In...>>(0));
  using Formula = decltype(op.finish(0, op.template start<AccOf<In...>>(0)));
  const at::Tensor memory = scratch_for<Formula>(device, shape.rows);
  auto* const formulas = static_cast<Formula*>(memory.mutable_data_ptr());
  const auto finish = [&](const State* parts, int64_t chunks) {
    const int64_t blocks = at::ceil_div<int64_t>(shape.rows, kLaneThreads);
    const auto kernel = formulas_kernel<State, Formula, Op>;
    launch(device, blocks, kLaneThreads, kernel, shape, chunks, op, parts, formulas);
  };
  reduce_chunks<State>(device, shape, op, finish, NoOutput(), in...);
  map_columns_by(device, shape, op, FormulaIn<Formula>{formulas}, out, in...);
}

}  // namespace
}  // namespace torchnotes
