// The row drivers: reduce_rows makes the first pass over each row, map_rows the second, transform_rows both while the
// row is in cache. row_shape.h defines rows and operations. The output of a second pass may alias an input.
//
// Each lane of a vector is a State of its own. Rows are reduced in pieces of a fixed size: whole rows go to the
// threads, or pieces if there are fewer rows than threads, with the same result. Interleaved and short rows use one row
// per lane instead: lanes.h. The order in which memory is read is measured in docs/decisions/batch-norm-traversal.md.
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

constexpr int64_t kPiece = 32768;        // elements; large enough that merging the lanes costs nothing
constexpr int64_t kCached = 1 << 19;     // bytes that one core still finds in its cache for the second pass
constexpr int64_t kScattered = 512;      // elements of a segment
constexpr int64_t kInOrderPiece = 1024;  // elements of a row with many segments
constexpr int64_t kPrescanned = 4096;    // elements; small enough to stay in L1
constexpr int64_t kFetched = 1024;       // elements
constexpr int64_t kGathered = 128;       // elements; shorter segments are gathered, so that they fill the vectors,
constexpr int64_t kBlock = 256;          // in blocks of up to this many
constexpr int64_t kBlocked = 32;         // elements per lane that are added to a lighter state
constexpr int kStates = 4;  // vectors of states in flight, so that an addition need not wait for the one before

template <class Op, class = void>
inline constexpr bool has_prescan = false;
template <class Op>
inline constexpr bool has_prescan<Op, std::void_t<decltype(std::declval<const Op&>().template prescan<float>())>> =
    true;

template <class Op, class = void>
inline constexpr bool blocks = false;
template <class Op>
inline constexpr bool blocks<Op, std::void_t<decltype(Op::kBlocks)>> = Op::kBlocks;

// Inlines all calls, so that states live in registers. Not under the sanitizers, whose checks would make it compile for
// minutes.
#ifdef __SANITIZE_ADDRESS__
#define TORCHNOTES_FLATTEN
#else
#define TORCHNOTES_FLATTEN [[gnu::flatten]]
#endif

// The first n lanes of `added` and the other lanes of `old`, for States of vectors V.
template <class V, class State>
inline State blend_lanes(const State& old, const State& added, int64_t n) {
  using Number = Vectorized<typename NumberIn<State, typename V::value_type>::type>;  // V may be several Numbers
  std::array<Number, sizeof(State) / sizeof(Number)> x, y;
  static_assert(std::is_trivially_copyable_v<State> && sizeof(x) == sizeof(State), "a State consists of Ts");
  std::memcpy(static_cast<void*>(&x), &old, sizeof(State));
  std::memcpy(static_cast<void*>(&y), &added, sizeof(State));
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t passed = i * Number::size() % V::size();
    const Number first(static_cast<typename Number::value_type>(n - passed));
    x[i] = Number::blendv(x[i], y[i], Number::arange(0, 1) < first);
  }
  State result = old;
  std::memcpy(static_cast<void*>(&result), &x, sizeof(State));
  return result;
}

// Merges all lanes into a State of scalars: with State::merge_lanes if it exists, otherwise one by one.
template <class V, class State, class Result>
inline auto merge_lanes(const State& all, Result& result, int) -> decltype(all.merge_lanes(result)) {
  all.merge_lanes(result);
}
template <class V, class State, class Result>
inline void merge_lanes(const State& all, Result& result, long) {
  for (const Result& lane : to_scalars<V>(all, std::array<Result, V::size()>())) {
    result.merge(lane);
  }
}

// The States of kStates vectors V, one per lane.
template <class V, class State>
class VectorStates {
 public:
  explicit VectorStates(const State& empty) { states_.fill(empty); }

  // Calls f(state, x...) for n elements and, if `fetches`, prefetches the elements `ahead` of them.
  template <bool fetches = true, class F, class... In>
  TORCHNOTES_FLATTEN void add(const F& f, int64_t n, int64_t ahead, const In*... in) {
    constexpr int64_t kSize = V::size();
    auto states = states_;  // a copy that nothing can alias stays in registers
    int64_t i = 0;
    for (; i + kStates * kSize <= n; i += kStates * kSize) {
      unrolled<kStates>([&](auto k) {
        if constexpr (fetches) {
          (__builtin_prefetch(in + ahead + i + k * kSize), ...);
        }
        f(states[k], load_lanes(in + i + k * kSize)...);
      });
    }
    all_used_ = all_used_ || i > 0;
    for (; i + kSize <= n; i += kSize) {
      f(states[0], load_lanes(in + i)...);
    }
    if (i < n) {
      State added = states[0];
      f(added, load_lanes(in + i, n - i)...);
      states[0] = blend_lanes<V>(states[0], added, n - i);
    }
    states_ = states;
  }

  // The same with lighter states.
  template <class Block, class F, class... In>
  void add_blocks(const Block& empty, const F& f, int64_t n, int64_t ahead, const In*... in) {
    constexpr int64_t kLength = kBlocked * kStates * V::size();
    for (int64_t i = 0; i < n; i += kLength) {
      VectorStates<V, Block> few(empty);
      few.add(f, std::min(kLength, n - i), ahead, (in + i)...);
      for (int k = 0; k < kStates; ++k) {
        states_[k].merge(few.states_[k]);
      }
      all_used_ = all_used_ || few.all_used_;
    }
  }

  template <class Result>
  TORCHNOTES_FLATTEN Result merged_into(Result result) {
    for (int half = kStates / 2; half > 0 && all_used_; half /= 2) {
      for (int k = 0; k < half; ++k) {
        states_[k].merge(states_[k + half]);
      }
    }
    merge_lanes<V>(states_[0], result, 0);
    return result;
  }

 private:
  template <class, class>
  friend class VectorStates;

  std::array<State, kStates> states_;
  bool all_used_ = false;  // or only the first
};

template <class V, class State>
inline VectorStates<V, State> vector_states(const State& empty) {
  return VectorStates<V, State>(empty);
}

inline int64_t elements(const RowShape& shape) { return shape.segments * shape.length; }

// Whether the rows interleave segment by segment.
inline bool interleaves_segments(const RowShape& shape) {
  return shape.segments > 1 && shape.rows > 1 && shape.length > 0 && shape.length < kPiece;
}

// Whether the first pass over such rows follows the memory order: if a row does not stay in the cache of one core until
// the second pass, or is scattered in short segments.
template <class... In>
inline bool in_order(const RowShape& shape) {
  const int64_t bytes = elements(shape) * (int64_t(sizeof(In)) + ... + 0);
  return interleaves_segments(shape) && (bytes > kCached || shape.length < kScattered);
}

template <class... In>
inline int64_t piece_length(const RowShape& shape) {
  return in_order<In...>(shape) ? std::max<int64_t>(1, kInOrderPiece / shape.length) * shape.length : kPiece;
}
template <class... In>
inline int64_t pieces(const RowShape& shape) {
  return at::ceil_div(elements(shape), piece_length<In...>(shape));
}

// Whether the pieces of a row go to different threads: if there are more threads than rows, or to follow the memory
// order.
template <class... In>
inline bool split_rows(const RowShape& shape) {
  return pieces<In...>(shape) > 1 && (in_order<In...>(shape) || shape.rows < at::get_num_threads());
}

// Calls f(segment, offset, n) for the contiguous parts of the elements [begin, end) of a row.
template <class F>
inline void for_segments(const RowShape& shape, int64_t begin, int64_t end, const F& f) {
  if (begin == end) {
    return;  // the length may be 0
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

// A contiguous copy of the elements [begin, begin + n) of a row.
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

// Calls f(n, in...) for contiguous parts, of at most `limit` elements, of the elements [begin, end) of a row.
template <class F, class... In>
inline void for_parts(
    const RowShape& shape,
    int64_t row,
    int64_t begin,
    int64_t end,
    int64_t limit,
    const F& f,
    const RowOperand<const In>&... in
) {
  if (shape.segments > 1 && shape.length < kGathered) {
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t n = std::min(kBlock, end - i);
      f(n, Gathered<In>(shape, in, row, i, n).block.data()...);
    }
  } else {
    for_segments(shape, begin, end, [&](int64_t segment, int64_t offset, int64_t n) {
      for (int64_t i = 0; i < n; i += limit) {
        f(std::min(limit, n - i), (in.at(row, segment) + offset + i)...);
      }
    });
  }
}

template <class Op, class... In>
auto reduce_piece(
    const RowShape& shape, const Op& op, int64_t row, int64_t begin, int64_t end, const RowOperand<const In>&... in
) {
  using acc_t = AccOf<In...>;
  using V = Vectorized<acc_t>;
  const auto constants = row_constants(op, row);
  const auto add = [&](auto& state, const auto&... x) { add_elements(op, state, constants, x...); };
  StateOf<Op, acc_t> all = op.template start<acc_t>(row);
  if constexpr (has_prescan<Op>) {
    const auto scan = [&](auto& prescan, const auto&... x) { op.scan(prescan, x...); };
    const auto reduce_part = [&](int64_t n, const In*... x) {
      auto scans = vector_states<V>(op.template prescan<V>());
      scans.template add<false>(scan, n, 0, x...);
      const auto prescan = scans.merged_into(op.template prescan<acc_t>());
      auto states = vector_states<V>(op.template start<V>(row, prescan));
      states.add(add, n, n, x...);
      return states.merged_into(op.template start<acc_t>(row, prescan));
    };
    bool first = true;
    for_parts(
        shape,
        row,
        begin,
        end,
        kPrescanned,
        [&](int64_t n, const In*... x) {
          const StateOf<Op, acc_t> part = reduce_part(n, x...);
          first ? void(all = part) : all.merge(part);
          first = false;
        },
        in...
    );
    return all;
  } else {
    auto states = vector_states<V>(op.template start<V>(row));
    const int64_t next = shape.segments > 1 ? shape.rows * shape.length : kFetched;
    const int64_t ahead = in_order<In...>(shape) ? shape.length : next;  // to the next row, or in this row
    const auto add_part = [&](int64_t n, const In*... x) {
      if constexpr (blocks<Op>) {
        states.add_blocks(op.template block<V>(), add, n, ahead, x...);
      } else {
        states.add(add, n, ahead, x...);
      }
    };
    for_parts(shape, row, begin, end, kPiece, add_part, in...);
    return states.merged_into(all);
  }
}

template <bool past_caches, class Op, class Formula, class scalar_t, class... In>
inline void map_segment(const Op& op, const Formula& f, int64_t n, scalar_t* out, const In*... in) {
  using V = Lanes<scalar_t>;
  constexpr int64_t kParts = Vectorized<scalar_t>::size() / V::size();  // one vector of bfloat16 is two of float
  constexpr int64_t kStep = kParts * V::size();
  std::array<V, kParts> y;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    for (int64_t part = 0; part < kParts; ++part) {
      y[part] = op.value(f, load_lanes(in + i + part * V::size())...);
    }
    store_lanes<past_caches>(out + i, y);
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
  const int64_t bytes = shape.rows * elements(shape) * int64_t(sizeof(scalar_t));
  for_segments(shape, begin, end, [&](int64_t segment, int64_t offset, int64_t n) {
    scalar_t* const y = out.at(row, segment) + offset;
    if (interleaves_segments(shape) && should_stream(y, bytes)) {
      map_segment<true>(op, f, n, y, (in.at(row, segment) + offset)...);
    } else {
      map_segment<false>(op, f, n, y, (in.at(row, segment) + offset)...);
    }
  });
}

// Calls f(row) for every row, in parallel.
template <class F>
void for_rows(const RowShape& shape, const F& f) {
  const int64_t grain = std::max<int64_t>(1, at::internal::GRAIN_SIZE / std::max<int64_t>(1, elements(shape)));
  at::parallel_for(0, shape.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      f(row);
    }
    stream_fence();
  });
}

// Calls f(row, i, begin, end) for the i-th part of every row, each of `length` elements, in parallel. Rows that
// interleave by segment take turns.
template <class F>
void for_parts_of_rows(const RowShape& shape, int64_t length, const F& f) {
  const int64_t per_row = at::ceil_div(elements(shape), length);
  const int64_t grain = at::ceil_div(at::internal::GRAIN_SIZE, length);
  at::parallel_for(0, shape.rows * per_row, grain, [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last; ++at) {
      const int64_t row = interleaves_segments(shape) ? at % shape.rows : at / per_row;
      const int64_t i = interleaves_segments(shape) ? at / shape.rows : at % per_row;
      f(row, i, i * length, std::min((i + 1) * length, elements(shape)));
    }
    stream_fence();
  });
}

// Returns a function states(row) that gives the state of a whole row. It reduces the row when called, unless rows are
// split: then their pieces have been reduced by several threads before.
template <class Op, class... In>
auto row_states(const RowShape& shape, const Op& op, const RowOperand<const In>&... in) {
  using acc_t = AccOf<In...>;
  std::vector<StateOf<Op, acc_t>> parts;
  if (split_rows<In...>(shape)) {
    parts.resize(shape.rows * pieces<In...>(shape));
    for_parts_of_rows(shape, piece_length<In...>(shape), [&](int64_t row, int64_t i, int64_t begin, int64_t end) {
      parts[row * pieces<In...>(shape) + i] = reduce_piece(shape, op, row, begin, end, in...);
    });
  }
  return [=, parts = std::move(parts)](int64_t row) {
    const int64_t length = piece_length<In...>(shape);
    const auto part = [&](int64_t i) {
      return parts.empty()
                 ? reduce_piece(shape, op, row, i * length, std::min((i + 1) * length, elements(shape)), in...)
                 : parts[row * pieces<In...>(shape) + i];
    };
    auto all = part(0);
    for (int64_t i = 1; i < pieces<In...>(shape); ++i) {
      all.merge(part(i));
    }
    return all;
  };
}

// formula_of(row) is the Formula that the second pass over a row needs.
template <class Op, class FormulaOf, class scalar_t, class... In>
void map_rows_by(
    const RowShape& shape,
    bool split,
    const Op& op,
    const FormulaOf& formula_of,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  if (split) {
    std::vector<decltype(formula_of(int64_t(0)))> formulas;
    formulas.reserve(shape.rows);
    for (int64_t row = 0; row < shape.rows; ++row) {
      formulas.push_back(formula_of(row));
    }
    const int64_t length = interleaves_segments(shape) ? shape.length : kPiece;
    for_parts_of_rows(shape, length, [&](int64_t row, int64_t, int64_t begin, int64_t end) {
      map_piece(shape, op, formulas[row], row, begin, end, out, in...);
    });
    for (int64_t row = 0; row < shape.rows; ++row) {
      patch_target(op, row, formulas[row], 0);
    }
  } else {
    for_rows(shape, [&](int64_t row) {
      const auto formula = formula_of(row);
      map_piece(shape, op, formula, row, 0, elements(shape), out, in...);
      patch_target(op, row, formula, 0);
    });
  }
}

template <class Op, class... In>
void reduce_rows(c10::Device, const RowShape& shape, const Op& op, const RowOperand<const In>&... in) {
  if (one_row_per_lane(shape)) {
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
  if (one_row_per_lane(shape)) {
    map_lanes(shape, op, out, in...);
  } else {
    map_rows_by(
        shape,
        interleaves_segments(shape) || split_rows<In...>(shape),
        op,
        [&](int64_t row) { return op.formula(row); },
        out,
        in...
    );
  }
}

template <class Op, class scalar_t, class... In>
void transform_rows(
    c10::Device, const RowShape& shape, const Op& op, const RowOperand<scalar_t>& out, const RowOperand<const In>&... in
) {
  if (one_row_per_lane(shape)) {
    transform_lanes(shape, op, out, in...);
  } else {
    const auto states = row_states(shape, op, in...);
    map_rows_by(
        shape, split_rows<In...>(shape), op, [&](int64_t row) { return op.finish(row, states(row)); }, out, in...
    );
  }
}

}  // namespace
}  // namespace torchnotes
