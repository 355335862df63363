// The row drivers for the columns of a matrix: rows that are all interleaved, {C, 1, R, C} in the terms of row_shape.h,
// and as long as the batch is large. Examples are the channels of (N, C) or of channels-last images.
//
// The matrix is read in memory order, with one column per lane. Threads reduce chunks of consecutive elements of all
// columns. A chunk is processed in panels that stay in cache, while a few vectors of columns at a time pass through the
// registers. Measured in docs/decisions/batch-norm-traversal.md.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include <algorithm>
#include <vector>

#include "rows.h"

namespace torchnotes {
namespace {

constexpr int64_t kChunks = 64;
constexpr int64_t kPanel = 32;  // elements of each column
constexpr int kTile = 4;        // vectors of columns

// The number of columns in the vector that starts at column `first`.
template <class V>
inline int64_t width(const RowShape& shape, int64_t first) {
  return std::min<int64_t>(V::size(), shape.rows - first);
}

// Calls f(first, n) for each vector of columns.
template <class V, class F>
auto of_vectors(const RowShape& shape, const F& f) {
  std::vector<decltype(f(int64_t(0), int64_t(0)))> result;
  result.reserve(at::ceil_div<int64_t>(shape.rows, V::size()));
  for (int64_t first = 0; first < shape.rows; first += V::size()) {
    result.push_back(f(first, width<V>(shape, first)));
  }
  return result;
}

// Stands for the output of a pass that only reduces.
struct NoOutput {};
inline NoOutput operator+(NoOutput no_output, int64_t) { return no_output; }

template <class Op, class State, class Constants, class... V>
inline void add_and_write(const Op& op, State& state, const Constants& constants, NoOutput, int64_t, const V&... x) {
  add_elements(op, state, constants, x...);
}
template <class Op, class State, class Constants, class scalar_t, class... V>
inline void add_and_write(const Op& op, State& state, const Constants&, scalar_t* out, int64_t lanes, const V&... x) {
  const std::array y{op.value(x...)};
  store_lanes(out, y, lanes);
  op.add(state, y[0]);
}

// Adds `length` elements of n vectors of columns, the last of which has `lanes` columns, and prefetches `ahead`.
template <int n, class V, class Op, class State, class Constants, class Out, class... In>
TORCHNOTES_FLATTEN inline void add_tile(
    const Op& op,
    State* all,
    const Constants* constants,
    int64_t lanes,
    int64_t length,
    int64_t stride,
    int64_t ahead,
    Out out,
    const In*... in
) {
  const auto add = [&](auto& states) {
    for (int64_t j = 0; j < length; ++j) {
      unrolled<n>([&](auto k) {
        const int64_t at = j * stride + k * V::size();
        (__builtin_prefetch(in + at + ahead), ...);
        if (lanes == V::size()) {
          add_and_write(op, states[k], constants[k], out + at, V::size(), load_lanes(in + at)...);
        } else {
          add_and_write(op, states[k], constants[k], out + at, lanes, load_lanes(in + at, lanes)...);
        }
      });
    }
  };
  if constexpr (blocks<Op>) {
    std::array<decltype(op.template block<V>()), n> few;
    few.fill(op.template block<V>());
    add(few);
    unrolled<n>([&](auto k) { all[k].merge(few[k]); });
  } else {
    std::array<State, n> states;
    std::copy_n(all, n, states.begin());
    add(states);
    std::copy_n(states.begin(), n, all);
  }
}

// Adds the elements [begin, end) of all columns to their states.
template <class V, class Op, class State, class Constants, class Out, class... In>
void add_chunk(
    const RowShape& shape,
    const Op& op,
    std::vector<State>& states,
    const std::vector<Constants>& constants,
    int64_t begin,
    int64_t end,
    Out out,
    const RowOperand<const In>&... in
) {
  const int64_t full = shape.rows / (kTile * V::size()) * kTile;  // vectors in whole tiles
  for (int64_t j = begin; j < end; j += kPanel) {
    const int64_t length = std::min(kPanel, end - j), stride = shape.interleaved;
    for (int64_t v = 0; v < full; v += kTile) {
      const int64_t at = j * stride + v * V::size(), next = v + kTile == full ? 0 : v + kTile;
      const int64_t ahead = (next - v) * V::size() + (next == 0 ? kPanel * stride : 0);
      add_tile<kTile, V>(op, &states[v], &constants[v], V::size(), length, stride, ahead, out + at, (in.data + at)...);
    }
    for (int64_t v = full; v < int64_t(states.size()); ++v) {
      const int64_t first = v * V::size(), at = j * stride + first;
      add_tile<1, V>(
          op, &states[v], &constants[v], width<V>(shape, first), length, stride, 0, out + at, (in.data + at)...
      );
    }
  }
}

// Returns op.finish(...) of each column.
template <class Op, class Out, class... In>
auto finished_columns(const RowShape& shape, const Op& op, Out out, const RowOperand<const In>&... in) {
  using acc_t = AccOf<In...>;
  using V = Vectorized<acc_t>;
  using State = StateOf<Op, acc_t>;
  const int64_t columns = shape.rows;
  const int64_t chunk = std::max(kPanel, at::ceil_div(shape.length, kChunks));
  const int64_t chunks = at::ceil_div(shape.length, chunk);
  const auto constants =
      of_vectors<V>(shape, [&](int64_t first, int64_t n) { return lane_constants<V>(op, first, n); });
  std::vector<State> parts(chunks * columns);
  const int64_t grain = at::ceil_div(at::internal::GRAIN_SIZE, std::max<int64_t>(1, chunk * columns));
  at::parallel_for(0, chunks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      auto states = of_vectors<V>(shape, [&](int64_t first, int64_t) { return op.template start<V>(first); });
      add_chunk<V>(shape, op, states, constants, i * chunk, std::min((i + 1) * chunk, shape.length), out, in...);
      for (size_t v = 0; v < states.size(); ++v) {
        const int64_t first = v * V::size();
        const auto lanes = to_scalars<V>(states[v], std::array<State, V::size()>());
        std::copy_n(lanes.begin(), width<V>(shape, first), &parts[i * columns + first]);
      }
    }
  });
  for (int64_t i = 1; i < chunks; ++i) {
    for (int64_t column = 0; column < columns; ++column) {
      parts[column].merge(parts[i * columns + column]);
    }
  }
  if constexpr (std::is_void_v<decltype(op.finish(0, parts[0]))>) {
    for (int64_t column = 0; column < columns; ++column) {
      op.finish(column, parts[column]);
    }
  } else {
    std::vector<decltype(op.finish(0, parts[0]))> formulas(columns);
    for (int64_t column = 0; column < columns; ++column) {
      formulas[column] = op.finish(column, parts[column]);
    }
    return formulas;
  }
}

// formula(column) is the Formula that the second pass over a column needs.
template <class Op, class FormulaOf, class scalar_t, class... In>
void map_columns_by(
    const RowShape& shape,
    const Op& op,
    const FormulaOf& formula,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  using V = Lanes<scalar_t>;
  constexpr int64_t kParts = Vectorized<scalar_t>::size() / V::size();  // one vector of bfloat16 is two of float
  constexpr int64_t kStep = kParts * V::size();
  const int64_t columns = shape.rows;
  const auto formulas = of_vectors<V>(shape, [&](int64_t first, int64_t n) {
    std::array<decltype(formula(first)), V::size()> lanes;
    for (int64_t lane = 0; lane < V::size(); ++lane) {
      lanes[lane] = formula(first + std::min(lane, n - 1));
    }
    return pack_lanes<V>(lanes);
  });
  const auto map_range = [&]<bool past_caches>(int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const int64_t at = j * shape.interleaved;
      std::array<V, kParts> y;
      int64_t i = 0;
      for (; i + kStep <= columns; i += kStep) {
        for (int64_t part = 0; part < kParts; ++part) {
          const int64_t from = i + part * V::size();
          y[part] = op.value(formulas[from / V::size()], load_lanes(in.data + at + from)...);
        }
        store_lanes<past_caches>(out.data + at + i, y);
      }
      for (; i < columns; i += V::size()) {
        const int64_t n = width<V>(shape, i);
        y[0] = op.value(formulas[i / V::size()], load_lanes(in.data + at + i, n)...);
        store_lanes(out.data + at + i, y, n);
      }
    }
    stream_fence();
  };
  const int64_t in_row = shape.interleaved * int64_t(sizeof(scalar_t));
  const bool large = should_stream(out.data, shape.length * in_row, in_row);
  const int64_t grain = at::ceil_div(at::internal::GRAIN_SIZE, std::max<int64_t>(1, columns));
  at::parallel_for(0, shape.length, grain, [&](int64_t begin, int64_t end) {
    large ? map_range.template operator()<true>(begin, end) : map_range.template operator()<false>(begin, end);
  });
}

template <class Op, class... In>
void reduce_columns(c10::Device, const RowShape& shape, const Op& op, const RowOperand<const In>&... in) {
  finished_columns(shape, op, NoOutput(), in...);
}

template <class Op, class scalar_t, class... In>
void map_columns(
    c10::Device, const RowShape& shape, const Op& op, const RowOperand<scalar_t>& out, const RowOperand<const In>&... in
) {
  map_columns_by(shape, op, [&](int64_t column) { return op.formula(column); }, out, in...);
}

// Writes op.value(x...) for every element and reduces the values in the same pass.
template <class Op, class scalar_t, class... In>
void map_and_reduce_columns(
    c10::Device, const RowShape& shape, const Op& op, const RowOperand<scalar_t>& out, const RowOperand<const In>&... in
) {
  finished_columns(shape, op, out.data, in...);
}

template <class Op, class scalar_t, class... In>
void transform_columns(
    c10::Device, const RowShape& shape, const Op& op, const RowOperand<scalar_t>& out, const RowOperand<const In>&... in
) {
  const auto formulas = finished_columns(shape, op, NoOutput(), in...);
  map_columns_by(shape, op, [&](int64_t column) { return formulas[column]; }, out, in...);
}

}  // namespace
}  // namespace torchnotes
