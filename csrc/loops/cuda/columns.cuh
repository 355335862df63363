// The traversals of rows for the columns of a matrix, with the interface of loops/cpu/columns.h. The threads of a warp
// take neighboring columns; the warps of a block take turns at the elements.
//
// One block reduces a chunk of fixed length of 32 columns. Then one thread per column merges the chunks in order.
#pragma once

#include <ATen/ceil_div.h>

#include <algorithm>
#include <new>
#include <type_traits>

#include "loops/cuda/lanes.cuh"
#include "loops/cuda/launch.cuh"
#include "loops/cuda/rows.cuh"
#include "loops/cuda/typed.cuh"
#include "loops/row_shape.h"

namespace torchnotes {

constexpr int kColumnThreads = 256;
constexpr int kColumnWarps = kColumnThreads / kWarp;

// The elements of every column in chunks: 256 at most, of 128 elements at least.
struct ColumnChunks {
  int64_t length, count;

  explicit ColumnChunks(const RowShape& shape)
      : length(std::max<int64_t>(128, at::ceil_div<int64_t>(shape.length, 256))),
        count(std::max<int64_t>(1, at::ceil_div(shape.length, length))) {}
};

C10_HOST_DEVICE inline int64_t groups(const RowShape& shape) { return at::ceil_div<int64_t>(shape.rows, kWarp); }

// Calls f(i, column, begin, end) for the i-th chunk of a column; the thread takes every kColumnWarps-th element from
// `begin` on.
template <class F>
__device__ inline void for_chunks(const RowShape& shape, const ColumnChunks& chunks, const F& f) {
  const int64_t in_row = groups(shape);
  for (int64_t at = blockIdx.x; at < chunks.count * in_row; at += gridDim.x) {
    const int64_t i = at / in_row, column = at % in_row * kWarp + threadIdx.x % kWarp;
    const int64_t begin = i * chunks.length, end = begin + chunks.length;
    f(i, column, begin + threadIdx.x / kWarp, end < shape.length ? end : shape.length);
  }
}

// Stands for the output of a pass that only reduces.
struct NoOutput {};

template <class T, class Op, class Out, class... In>
__global__ void __launch_bounds__(kColumnThreads) reduce_chunks_kernel(
    RowShape shape, ColumnChunks chunks, Op op, StateOf<Op, T>* parts, Out out, Typed<In>... in
) {
  using State = StateOf<Op, T>;
  __shared__ Uninitialized<State> states[kColumnThreads];
  for_chunks(shape, chunks, [&](int64_t i, int64_t column, int64_t begin, int64_t end) {
    const bool exists = column < shape.rows;
    State state = op.template start<T>(exists ? column : 0);
    if (exists) {
      const auto constants = row_constants(op, column);
      for (int64_t j = begin; j < end; j += kColumnWarps) {
        if constexpr (std::is_same_v<Out, NoOutput>) {
          add_elements(op, state, constants, static_cast<T>(in.at(column, j))...);
        } else {
          const T y = op.value(static_cast<T>(in.at(column, j))...);
          out.at(column, j) = static_cast<typename Out::Element>(y);
          op.add(state, y);
        }
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
__device__ inline void for_merged(
    const RowShape& shape, const ColumnChunks& chunks, const State* parts, const F& each
) {
  for_own_rows(shape, [&](int64_t column) {
    State state = parts[column];
    for (int64_t i = 1; i < chunks.count; ++i) {
      state.merge(parts[i * shape.rows + column]);
    }
    each(column, state);
  });
}

template <class State, class Op>
__global__ void __launch_bounds__(kLaneThreads) finish_columns_kernel(
    RowShape shape, ColumnChunks chunks, Op op, const State* parts
) {
  for_merged(shape, chunks, parts, [&](int64_t column, const State& all) { op.finish(column, all); });
}

template <class State, class Formula, class Op>
__global__ void __launch_bounds__(kLaneThreads) formulas_kernel(
    RowShape shape, ColumnChunks chunks, Op op, const State* parts, Formula* formulas
) {
  for_merged(shape, chunks, parts, [&](int64_t column, const State& all) {
    new (&formulas[column]) Formula(op.finish(column, all));
  });
}

template <class T, class Op, class FormulaOf, class Out, class... In>
__global__ void __launch_bounds__(kColumnThreads) map_columns_kernel(
    RowShape shape, ColumnChunks chunks, Op op, FormulaOf formula_of, Typed<Out> out, Typed<In>... in
) {
  for_chunks(shape, chunks, [&](int64_t, int64_t column, int64_t begin, int64_t end) {
    if (column < shape.rows) {
      const auto formula = formula_of(column);
      for (int64_t j = begin; j < end; j += kColumnWarps) {
        out.at(column, j) = static_cast<Out>(op.value(formula, static_cast<T>(in.at(column, j))...));
      }
    }
  });
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

template <class T, class Op, class Out, class... In>
void launch_reduction(
    c10::Device device,
    const RowShape& shape,
    const ColumnChunks& chunks,
    const Op& op,
    StateOf<Op, T>* parts,
    const Out& out,
    const Typed<In>&... in
) {
  const auto kernel = reduce_chunks_kernel<T, Op, Out, In...>;
  launch(device, chunks.count * groups(shape), kColumnThreads, kernel, shape, chunks, op, parts, out, in...);
}

template <class T, class Op, class FormulaOf, class... Operands>
void map_columns_by(
    c10::Device device,
    const RowShape& shape,
    const ColumnChunks& chunks,
    const Op& op,
    const FormulaOf& formula_of,
    const Operands&... operands
) {
  const auto run = [&]<class... E>(const Typed<E>&... typed) {
    const auto kernel = map_columns_kernel<T, Op, FormulaOf, E...>;
    launch(device, chunks.count * groups(shape), kColumnThreads, kernel, shape, chunks, op, formula_of, typed...);
  };
  with_types<T, Op>(run, operands...);
}

template <class T, class Op, class... In>
void reduce_columns(c10::Device device, const RowShape& shape, const Op& op, const In&... inputs) {
  using State = StateOf<Op, T>;
  const ColumnChunks chunks(shape);
  const Scratch<State> parts(device, chunks.count * shape.rows);
  const auto reduce = [&](const auto&... in) {
    launch_reduction<T>(device, shape, chunks, op, parts.data(), NoOutput(), in...);
  };
  with_types<T, Op>(reduce, inputs...);
  launch_lanes(device, shape, finish_columns_kernel<State, Op>, chunks, op, parts.data());
}

// Writes op.value(x...) for every element and reduces the values in the same pass.
template <class T, class Op, class... In>
void map_and_reduce_columns(
    c10::Device device, const RowShape& shape, const Op& op, const RowOperand& output, const In&... inputs
) {
  using State = StateOf<Op, T>;
  const ColumnChunks chunks(shape);
  const Scratch<State> parts(device, chunks.count * shape.rows);
  const auto reduce = [&](const auto& out, const auto&... in) {
    launch_reduction<T>(device, shape, chunks, op, parts.data(), out, in...);
  };
  with_types<T, Op>(reduce, output, inputs...);
  launch_lanes(device, shape, finish_columns_kernel<State, Op>, chunks, op, parts.data());
}

template <class T, class Op, class... In>
void map_columns(c10::Device device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  map_columns_by<T>(device, shape, ColumnChunks(shape), op, FormulaOfOp<Op>{op}, out, in...);
}

template <class T, class Op, class... In>
void transform_columns(
    c10::Device device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... inputs
) {
  using State = StateOf<Op, T>;
  using Formula = decltype(op.finish(0, op.template start<T>(0)));
  const ColumnChunks chunks(shape);
  const Scratch<State> parts(device, chunks.count * shape.rows);
  const Scratch<Formula> formulas(device, shape.rows);
  const auto reduce = [&](const auto&... in) {
    launch_reduction<T>(device, shape, chunks, op, parts.data(), NoOutput(), in...);
  };
  with_types<T, Op>(reduce, inputs...);
  const auto kernel = formulas_kernel<State, Formula, Op>;
  launch_lanes(device, shape, kernel, chunks, op, parts.data(), formulas.data());
  map_columns_by<T>(device, shape, chunks, op, FormulaIn<Formula>{formulas.data()}, out, inputs...);
}

template <class T, class Op, class... In>
void reduce_and_map_columns(
    c10::Device device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in
) {
  transform_columns<T>(device, shape, op, out, in...);
}

}  // namespace torchnotes
