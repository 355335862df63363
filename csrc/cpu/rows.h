// The row drivers: reduce_rows does the first pass over each row, map_rows the second, transform_rows both while the
// row is in cache. See row_shape.h for the rows and the operations. The output of a second pass may be an input.
//
// Each lane of a vector is a state of its own. Rows are added up in pieces of a fixed size: whole rows go to the
// threads, or, where there are fewer rows than threads, pieces do, with the same result.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include <array>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../row_shape.h"
#include "map.h"

namespace torchnotes {
namespace {

constexpr int64_t kPiece = 32768;  // elements; so many that merging lanes does not count
constexpr int kStates = 4;         // vectors of states in flight: an addition need not wait for the one before
constexpr int64_t kBlock = 256;    // elements; shorter segments are gathered, so that they fill the vectors

template <class scalar_t>
using Lanes = Vectorized<at::opmath_type<scalar_t>>;

template <class Op, class T>
using StateOf = decltype(std::declval<const Op&>().template start<T>(0));

template <class scalar_t>
inline Lanes<scalar_t> load_lanes(const scalar_t* p) {
  if constexpr (is_half<scalar_t>) {
    Lanes<scalar_t> x;
    at::vec::load_to_float<scalar_t>(p, x);
    return x;
  } else {
    return Lanes<scalar_t>::loadu(p);
  }
}

template <class scalar_t>
inline Lanes<scalar_t> load_lanes(const scalar_t* p, int64_t n) {
  std::array<scalar_t, Lanes<scalar_t>::size()> block{};
  std::copy_n(p, n, block.begin());
  return load_lanes(block.data());
}

// a with the members f(a.member, b.member), for States of vectors V.
template <class V, class State, class F>
inline State zip_members(State a, const State& b, const F& f) {
  std::array<V, sizeof(State) / sizeof(V)> x, y;
  static_assert(std::is_trivially_copyable_v<State> && sizeof(x) == sizeof(State), "a State consists of Ts");
  std::memcpy(static_cast<void*>(&x), &a, sizeof(State));
  std::memcpy(static_cast<void*>(&y), &b, sizeof(State));
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = f(x[i], y[i]);
  }
  std::memcpy(static_cast<void*>(&a), &x, sizeof(State));
  return a;
}

// Merges all lanes, halving them by turns, into a State of scalars.
template <class V, class Result, class State>
inline void merge_lanes(State all, const State& empty, Result& result) {
  using T = typename V::value_type;
  for (int half = V::size() / 2; half > 0; half /= 2) {
    all.merge(zip_members<V>(all, empty, [half](const V& x, const V& none) {
      std::array<T, 2 * V::size()> lanes;
      x.store(lanes.data());
      none.store(lanes.data() + V::size());
      return V::loadu(lanes.data() + half);
    }));
  }
  std::array<std::array<T, V::size()>, sizeof(State) / sizeof(V)> members;
  std::array<T, sizeof(State) / sizeof(V)> first;
  static_assert(sizeof(members) == sizeof(State) && sizeof(first) == sizeof(Result));
  std::memcpy(&members, &all, sizeof(State));
  std::transform(members.begin(), members.end(), first.begin(), [](const auto& lanes) { return lanes[0]; });
  std::memcpy(static_cast<void*>(&result), &first, sizeof(Result));
}

template <class V, class State, class... In>
inline void add_segment(std::array<State, kStates>& result, int64_t n, const In*... in) {
  constexpr int64_t kSize = V::size();
  auto states = result;  // a copy that nothing else can point to, for the registers
  int64_t i = 0;
  for (; i + kStates * kSize <= n; i += kStates * kSize) {
    for (int k = 0; k < kStates; ++k) {
      states[k].add(load_lanes(in + i + k * kSize)...);
    }
  }
  int k = 0;
  for (; i + kSize <= n; i += kSize) {
    states[k++].add(load_lanes(in + i)...);
  }
  if (i < n) {
    State all_lanes = states[k];
    all_lanes.add(load_lanes(in + i, n - i)...);
    states[k] = zip_members<V>(states[k], all_lanes, [m = n - i](const V& old, const V& added) {
      return V::set(old, added, m);
    });
  }
  result = states;
}

// Calls f(segment, offset, n) for the contiguous parts of the elements [begin, end) of a row.
template <class F>
inline void for_segments(const RowShape& shape, int64_t begin, int64_t end, const F& f) {
  if (begin == end) {
    return;  // perhaps of length 0
  }
  int64_t segment = begin / shape.length;
  int64_t offset = begin % shape.length;
  while (begin < end) {
    const int64_t n = std::min(end - begin, shape.length - offset);
    f(segment, offset, n);
    begin += n;
    ++segment;
    offset = 0;
  }
}

// The elements [begin, begin + n) of a row, contiguous.
template <class T>
struct Gathered {
  std::array<T, kBlock> block;

  Gathered(const RowShape& shape, const RowOperand<const T>& x, int64_t row, int64_t begin, int64_t n) {
    auto next = block.begin();
    for_segments(shape, begin, begin + n, [&](int64_t segment, int64_t offset, int64_t m) {
      next = std::copy_n(x.at(row, segment) + offset, m, next);
    });
  }
};

template <class Op, class... In>
auto reduce_piece(
    const RowShape& shape, const Op& op, int64_t row, int64_t begin, int64_t end, const RowOperand<const In>&... in
) {
  using scalar_t = std::common_type_t<In...>;
  using V = Lanes<scalar_t>;
  const StateOf<Op, V> empty = op.template start<V>(row);
  std::array<StateOf<Op, V>, kStates> states;
  states.fill(empty);
  if (shape.length < kBlock) {
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t n = std::min(kBlock, end - i);
      add_segment<V>(states, n, Gathered<In>(shape, in, row, i, n).block.data()...);
    }
  } else {
    for_segments(shape, begin, end, [&](int64_t segment, int64_t offset, int64_t n) {
      add_segment<V>(states, n, (in.at(row, segment) + offset)...);
    });
  }
  for (int k = 1; k < kStates && k * V::size() < end - begin; ++k) {
    states[0].merge(states[k]);
  }
  auto all = op.template start<at::opmath_type<scalar_t>>(row);
  merge_lanes<V>(states[0], empty, all);
  return all;
}

template <class Formula, class scalar_t, class... In>
void map_piece(
    const RowShape& shape,
    const Formula& f,
    int64_t row,
    int64_t begin,
    int64_t end,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  constexpr size_t N = sizeof...(In);
  for_segments(shape, begin, end, [&](int64_t segment, int64_t offset, int64_t n) {
    const std::array<scalar_t*, N + 1> data = {
        out.at(row, segment) + offset, const_cast<scalar_t*>(in.at(row, segment) + offset)...
    };
    map_contiguous<N>(f, data, n, std::make_index_sequence<N>{});
  });
}

inline int64_t elements(const RowShape& shape) { return shape.segments * shape.length; }
inline int64_t pieces(const RowShape& shape) { return at::ceil_div(elements(shape), kPiece); }
inline bool split_rows(const RowShape& shape) { return shape.rows < at::get_num_threads() && pieces(shape) > 1; }

// Calls f(row) for every row, in parallel.
template <class F>
void for_rows(const RowShape& shape, const F& f) {
  const int64_t grain = std::max<int64_t>(1, at::internal::GRAIN_SIZE / std::max<int64_t>(1, elements(shape)));
  at::parallel_for(0, shape.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      f(row);
    }
  });
}

// Calls f(i, row, begin, end) for every piece, the i-th of all, in parallel.
template <class F>
void for_pieces(const RowShape& shape, const F& f) {
  const int64_t per_row = pieces(shape);
  at::parallel_for(0, shape.rows * per_row, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % per_row * kPiece;
      f(i, i / per_row, begin, std::min(begin + kPiece, elements(shape)));
    }
  });
}

// states(row) is the state of the whole row: merged from its pieces, which are added up when it is asked for, or
// before, on several threads, where rows are split.
template <class Op, class... In>
auto row_states(const RowShape& shape, const Op& op, const RowOperand<const In>&... in) {
  using acc_t = at::opmath_type<std::common_type_t<In...>>;
  std::vector<StateOf<Op, acc_t>> parts;
  if (split_rows(shape)) {
    parts.resize(shape.rows * pieces(shape));
    for_pieces(shape, [&](int64_t i, int64_t row, int64_t begin, int64_t end) {
      parts[i] = reduce_piece(shape, op, row, begin, end, in...);
    });
  }
  return [=, parts = std::move(parts)](int64_t row) {
    auto all = op.template start<acc_t>(row);
    for (int64_t i = 0; i < pieces(shape); ++i) {
      const int64_t begin = i * kPiece;
      all.merge(
          parts.empty() ? reduce_piece(shape, op, row, begin, std::min(begin + kPiece, elements(shape)), in...)
                        : parts[row * pieces(shape) + i]
      );
    }
    return all;
  };
}

template <class Op, class... In>
void reduce_rows(const RowShape& shape, const Op& op, const RowOperand<const In>&... in) {
  const auto states = row_states(shape, op, in...);
  for_rows(shape, [&](int64_t row) { op.finish(row, states(row)); });
}

// formula_of(row) is the formula of the pass over a row.
template <class FormulaOf, class scalar_t, class... In>
void map_rows(
    const RowShape& shape,
    const FormulaOf& formula_of,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  if (split_rows(shape)) {
    std::vector<decltype(formula_of(int64_t(0)))> formulas;
    for (int64_t row = 0; row < shape.rows; ++row) {
      formulas.push_back(formula_of(row));
    }
    for_pieces(shape, [&](int64_t, int64_t row, int64_t begin, int64_t end) {
      map_piece(shape, formulas[row], row, begin, end, out, in...);
    });
    for (const auto& formula : formulas) {
      amend(formula, 0);
    }
  } else {
    for_rows(shape, [&](int64_t row) {
      const auto formula = formula_of(row);
      map_piece(shape, formula, row, 0, elements(shape), out, in...);
      amend(formula, 0);
    });
  }
}

template <class Op, class scalar_t, class... In>
void transform_rows(
    const RowShape& shape, const Op& op, const RowOperand<scalar_t>& out, const RowOperand<const In>&... in
) {
  const auto states = row_states(shape, op, in...);
  map_rows(shape, [&](int64_t row) { return op.finish(row, states(row)); }, out, in...);
}

}  // namespace
}  // namespace torchnotes
