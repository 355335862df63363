// The row drivers: reduce_rows does the first pass over each row, map_rows the second, transform_rows both while the
// row is in cache. See row_shape.h for the rows and the operations. The output of a second pass may be an input.
//
// Each lane of a vector is a state of its own. Rows are added up in pieces of a fixed size: whole rows go to the
// threads, or, where there are fewer rows than threads, pieces do, with the same result. Rows that are interleaved or
// short lie across the vectors instead, each in a lane: lanes.h.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include <array>
#include <cstring>
#include <type_traits>
#include <vector>

#include "lanes.h"

namespace torchnotes {
namespace {

constexpr int64_t kPiece = 32768;  // elements; so many that merging lanes does not count
constexpr int kStates = 4;         // vectors of states in flight: an addition need not wait for the one before
constexpr int64_t kBlock = 256;    // elements; shorter segments are gathered, so that they fill the vectors

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

// Merges all lanes into a State of scalars: as the State itself knows to do it, or halving them by turns.
template <class V, class Result, class State>
inline auto merge_lanes(const State& all, const State&, Result& result, int) -> decltype(all.merge_lanes(result)) {
  all.merge_lanes(result);
}
template <class V, class Result, class State>
inline void merge_lanes(State all, const State& empty, Result& result, long) {
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

template <class V, class Op, class State, class... In>
inline void add_segment(const Op& op, std::array<State, kStates>& result, int64_t n, const In*... in) {
  constexpr int64_t kSize = V::size();
  auto states = result;  // a copy that nothing else can point to, for the registers
  int64_t i = 0;
  for (; i + kStates * kSize <= n; i += kStates * kSize) {
    for (int k = 0; k < kStates; ++k) {
      op.add(states[k], load_lanes(in + i + k * kSize)...);
    }
  }
  for (; i + kSize <= n; i += kSize) {
    op.add(states[0], load_lanes(in + i)...);
  }
  if (i < n) {
    State all_lanes = states[0];
    op.add(all_lanes, load_lanes(in + i, n - i)...);
    states[0] = zip_members<V>(states[0], all_lanes, [m = n - i](const V& old, const V& added) {
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
  using acc_t = AccOf<In...>;
  using V = Vectorized<acc_t>;
  const StateOf<Op, V> empty = op.template start<V>(row);
  std::array<StateOf<Op, V>, kStates> states;
  states.fill(empty);
  if (shape.length < kBlock) {
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t n = std::min(kBlock, end - i);
      add_segment<V>(op, states, n, Gathered<In>(shape, in, row, i, n).block.data()...);
    }
  } else {
    for_segments(shape, begin, end, [&](int64_t segment, int64_t offset, int64_t n) {
      add_segment<V>(op, states, n, (in.at(row, segment) + offset)...);
    });
  }
  if (end - begin >= kStates * V::size()) {  // the others have seen something
    for (int half = kStates / 2; half > 0; half /= 2) {
      for (int k = 0; k < half; ++k) {
        states[k].merge(states[k + half]);
      }
    }
  }
  auto all = op.template start<acc_t>(row);
  merge_lanes<V>(states[0], empty, all, 0);
  return all;
}

template <class Op, class Formula, class scalar_t, class... In>
inline void map_segment(const Op& op, const Formula& f, int64_t n, scalar_t* out, const In*... in) {
  using V = Lanes<scalar_t>;
  constexpr int64_t kParts = Vectorized<scalar_t>::size() / V::size();  // a vector of bfloat16 is two of float
  constexpr int64_t kStep = kParts * V::size();
  std::array<V, kParts> y;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    for (int64_t part = 0; part < kParts; ++part) {
      y[part] = op.value(f, load_lanes(in + i + part * V::size())...);
    }
    store_lanes(out + i, y);
  }
  for (; i < n; i += V::size()) {
    const int64_t m = std::min<int64_t>(V::size(), n - i);
    y[0] = op.value(f, load_lanes(in + i, m)...);
    store_lanes(out + i, y, m);
  }
}

template <class Op, class Formula, class scalar_t, class... In>
void map_piece(
    const RowShape& shape,
    const Op& op,
    const Formula& f,
    int64_t row,
    int64_t begin,
    int64_t end,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  for_segments(shape, begin, end, [&](int64_t segment, int64_t offset, int64_t n) {
    map_segment(op, f, n, out.at(row, segment) + offset, (in.at(row, segment) + offset)...);
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
  using acc_t = AccOf<In...>;
  std::vector<StateOf<Op, acc_t>> parts;
  if (split_rows(shape)) {
    parts.resize(shape.rows * pieces(shape));
    for_pieces(shape, [&](int64_t i, int64_t row, int64_t begin, int64_t end) {
      parts[i] = reduce_piece(shape, op, row, begin, end, in...);
    });
  }
  return [=, parts = std::move(parts)](int64_t row) {
    const auto part = [&](int64_t i) {
      return parts.empty()
                 ? reduce_piece(shape, op, row, i * kPiece, std::min((i + 1) * kPiece, elements(shape)), in...)
                 : parts[row * pieces(shape) + i];
    };
    auto all = part(0);
    for (int64_t i = 1; i < pieces(shape); ++i) {
      all.merge(part(i));
    }
    return all;
  };
}

// formula_of(row) is what the pass over a row needs.
template <class Op, class FormulaOf, class scalar_t, class... In>
void map_rows_by(
    const RowShape& shape,
    const Op& op,
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
      map_piece(shape, op, formulas[row], row, begin, end, out, in...);
    });
    for (int64_t row = 0; row < shape.rows; ++row) {
      amend(op, row, formulas[row], 0);
    }
  } else {
    for_rows(shape, [&](int64_t row) {
      const auto formula = formula_of(row);
      map_piece(shape, op, formula, row, 0, elements(shape), out, in...);
      amend(op, row, formula, 0);
    });
  }
}

template <class Op, class... In>
void reduce_rows(c10::Device, const RowShape& shape, const Op& op, const RowOperand<const In>&... in) {
  if (lie_across(shape)) {
    reduce_lanes(shape, op, in...);
  } else {
    const auto states = row_states(shape, op, in...);
    for_rows(shape, [&](int64_t row) { op.finish(row, states(row)); });
  }
}

template <class Op, class scalar_t, class... In>
void map_rows(
    c10::Device, const RowShape& shape, const Op& op, const RowOperand<scalar_t>& out, const RowOperand<const In>&... in
) {
  if (lie_across(shape)) {
    map_lanes(shape, op, out, in...);
  } else {
    map_rows_by(shape, op, [&](int64_t row) { return op.of(row); }, out, in...);
  }
}

template <class Op, class scalar_t, class... In>
void transform_rows(
    c10::Device, const RowShape& shape, const Op& op, const RowOperand<scalar_t>& out, const RowOperand<const In>&... in
) {
  if (lie_across(shape)) {
    transform_lanes(shape, op, out, in...);
  } else {
    const auto states = row_states(shape, op, in...);
    map_rows_by(shape, op, [&](int64_t row) { return op.finish(row, states(row)); }, out, in...);
  }
}

}  // namespace
}  // namespace torchnotes
