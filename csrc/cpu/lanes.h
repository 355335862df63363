// The row drivers with one row per lane: for interleaved rows, and for rows so short that they would not fill a vector.
// The elements of short rows are transposed into a buffer.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "../row_shape.h"
#include "map.h"
#include "stream.h"

namespace torchnotes {
namespace {

constexpr int64_t kShort = 48;  // elements; the crossover point: longer rows are faster one by one

// Long rows are added up in several chains: this reduces rounding errors, and the additions do not wait for one
// another. Measured in docs/decisions/short-rows.md.
constexpr int kChains = 4;
constexpr int64_t kWorthMerging = 8;

// Calls f(k) for k in [0, n), with k as a constant, so that an array indexed by k can live in registers.
template <int n, class F>
inline void unrolled(const F& f) {
  [&]<int... k>(std::integer_sequence<int, k...>) {
    (f(std::integral_constant<int, k>()), ...);
  }(std::make_integer_sequence<int, n>());
}

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
  if constexpr (is_half<scalar_t>) {
    std::array<scalar_t, Lanes<scalar_t>::size()> block{};
    std::copy_n(p, n, block.begin());
    return load_lanes(block.data());
  } else {
    return Lanes<scalar_t>::loadu(p, n);
  }
}

// Rounds as many lanes as fill a vector of scalar_t.
template <class scalar_t, size_t parts>
inline Vectorized<scalar_t> stored(const std::array<Lanes<scalar_t>, parts>& x) {
  if constexpr (is_half<scalar_t>) {
    return at::vec::convert_from_float<scalar_t>(x[0], x[parts - 1]);
  } else {
    return x[0];
  }
}

template <bool past_caches, class scalar_t, size_t parts>
inline void store_lanes(scalar_t* p, const std::array<Lanes<scalar_t>, parts>& x) {
  if constexpr (past_caches) {
    stream(p, stored<scalar_t>(x));
  } else {
    stored<scalar_t>(x).store(p);
  }
}

// Stores the first n lanes of x.
template <class scalar_t, size_t parts>
inline void store_lanes(scalar_t* p, const std::array<Lanes<scalar_t>, parts>& x, int64_t n) {
  stored<scalar_t>(x).store(p, static_cast<int>(n));
}

inline bool one_row_per_lane(const RowShape& shape) {
  return shape.interleaved > 1 || (shape.segments == 1 && shape.length <= kShort && shape.rows > 1);
}

// Transposes an array of structs, one per lane, into one struct of vectors, and back. All members of a struct have one
// type: T, or the struct's own Number.
template <class Scalars, class T, class = void>
struct NumberIn {
  using type = T;
};
template <class Scalars, class T>
struct NumberIn<Scalars, T, std::void_t<typename Scalars::Number>> {
  using type = typename Scalars::Number;
};

template <class V, class Vectors, class Scalars>
inline Vectors to_vectors(const std::array<Scalars, V::size()>& lanes) {
  using T = typename NumberIn<Scalars, typename V::value_type>::type;
  constexpr size_t kMembers = sizeof(Scalars) / sizeof(T);
  static_assert(
      sizeof(Vectors) == kMembers * V::size() * sizeof(T) && std::is_trivially_copyable_v<Scalars>,
      "a struct consists of one type"
  );
  std::array<std::array<T, V::size()>, kMembers> members;
  for (int lane = 0; lane < V::size(); ++lane) {
    std::array<T, kMembers> one;
    std::memcpy(&one, &lanes[lane], sizeof(one));
    for (size_t i = 0; i < kMembers; ++i) {
      members[i][lane] = one[i];
    }
  }
  Vectors result;
  std::memcpy(static_cast<void*>(&result), &members, sizeof(result));
  return result;
}

template <class V, class Scalars, class Vectors>
inline std::array<Scalars, V::size()> to_scalars(const Vectors& vectors, std::array<Scalars, V::size()> lanes) {
  using T = typename NumberIn<Scalars, typename V::value_type>::type;
  constexpr size_t kMembers = sizeof(Scalars) / sizeof(T);
  static_assert(sizeof(Vectors) == kMembers * V::size() * sizeof(T) && std::is_trivially_copyable_v<Vectors>);
  std::array<std::array<T, V::size()>, kMembers> members;
  std::memcpy(&members, &vectors, sizeof(vectors));
  for (int lane = 0; lane < V::size(); ++lane) {
    std::array<T, kMembers> one;
    for (size_t i = 0; i < kMembers; ++i) {
      one[i] = members[i][lane];
    }
    std::memcpy(static_cast<void*>(&lanes[lane]), &one, sizeof(one));
  }
  return lanes;
}

// One Formula of vectors from a Formula per lane.
template <class V, template <class> class Formula, class T, size_t n>
inline Formula<V> pack_lanes(const std::array<Formula<T>, n>& lanes) {
  return to_vectors<V, Formula<V>>(lanes);
}

// The constants of n rows from `row` on.
template <class V, class Op>
inline auto lane_constants(const Op& op, int64_t row, int64_t n) {
  if constexpr (has_row_constants<Op>) {
    std::array<decltype(op.row_constants(row)), V::size()> lanes;
    for (int64_t lane = 0; lane < V::size(); ++lane) {
      lanes[lane] = op.row_constants(row + std::min(lane, n - 1));
    }
    return pack_lanes<V>(lanes);
  } else {
    return NoConstants();
  }
}

// Reads element j of n rows from `row` on, one row per lane.
template <class scalar_t>
class LaneReader {
  using V = Lanes<scalar_t>;
  using acc_t = typename V::value_type;

 public:
  LaneReader(const RowShape& shape, const RowOperand<const scalar_t>& x, int64_t row, int64_t n)
      : first_(x.strided_row(row)), stride_(x.interleaved), n_(n), shared_(x.row_stride == 0) {
    copied_ = !shared_ && shape.interleaved == 1;
    if (copied_) {
      for (int64_t lane = 0; lane < V::size(); ++lane) {
        const scalar_t* const from = x.at(row + std::min(lane, n - 1), 0);
        for (int64_t j = 0; j < shape.length; ++j) {
          block_[j][lane] = static_cast<acc_t>(from[j]);
        }
      }
    }
  }

  V operator()(int64_t j) const {
    if (copied_) {
      return V::loadu(block_[j].data());
    }
    if (shared_) {
      return V(static_cast<acc_t>(first_[j]));
    }
    const scalar_t* const p = first_ + j * stride_;
    return n_ == V::size() ? load_lanes(p) : load_lanes(p, n_);
  }

 private:
  const scalar_t* first_;
  int64_t stride_, n_;
  bool shared_, copied_;
  std::array<std::array<acc_t, V::size()>, kShort> block_;
};

template <class scalar_t>
inline void write_lane(
    const RowShape& shape, const RowOperand<scalar_t>& out, int64_t row, int64_t n, int64_t j, const Lanes<scalar_t>& y
) {
  using V = Lanes<scalar_t>;
  if (shape.interleaved > 1) {
    store_lanes(out.strided_row(row) + j * out.interleaved, std::array<V, 1>{y}, n);
  } else {
    std::array<typename V::value_type, V::size()> lanes;
    y.store(lanes.data());
    for (int64_t lane = 0; lane < n; ++lane) {
      out.at(row + lane, 0)[j] = static_cast<scalar_t>(lanes[lane]);
    }
  }
}

// Calls f(row, n) for groups of at most `lanes` neighboring rows, in parallel.
template <class F>
void for_lanes(const RowShape& shape, int64_t lanes, const F& f) {
  const int64_t together = shape.interleaved > 1 ? shape.interleaved : shape.rows;
  const int64_t groups = at::ceil_div(together, lanes), outer = together == 0 ? 0 : shape.rows / together;
  const int64_t grain = std::max<int64_t>(1, at::internal::GRAIN_SIZE / std::max<int64_t>(1, lanes * shape.length));
  at::parallel_for(0, outer * groups, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % groups * lanes;
      f(i / groups * together + first, std::min(lanes, together - first));
    }
  });
}

// Reads n rows from `row` on and returns op.finish(...) of each.
template <class Op, class... In>
auto finished_lanes(const RowShape& shape, const Op& op, int64_t row, int64_t n, const LaneReader<In>&... in) {
  using V = Vectorized<AccOf<In...>>;
  using acc_t = typename V::value_type;
  std::array<StateOf<Op, acc_t>, V::size()> states;
  for (int64_t lane = 0; lane < V::size(); ++lane) {
    states[lane] = op.template start<acc_t>(row + std::min(lane, n - 1));
  }
  const auto empty = to_vectors<V, StateOf<Op, V>>(states);
  auto all = empty;
  const auto constants = lane_constants<V>(op, row, n);
  const int64_t alone = shape.length < kWorthMerging ? shape.length : shape.length % kChains;
  int64_t j = 0;
  for (; j < alone; ++j) {
    add_elements(op, all, constants, in(j)...);
  }
  if (j < shape.length) {
    std::array<decltype(all), kChains> chains;
    chains.fill(empty);
    chains[0] = all;
    for (; j < shape.length; j += kChains) {
      unrolled<kChains>([&](auto k) { add_elements(op, chains[k], constants, in(j + k)...); });
    }
    chains[0].merge(chains[1]);
    chains[2].merge(chains[3]);
    all = chains[0];
    all.merge(chains[2]);
  }
  states = to_scalars<V>(all, states);
  if constexpr (std::is_void_v<decltype(op.finish(row, states[0]))>) {
    for (int64_t lane = 0; lane < n; ++lane) {
      op.finish(row + lane, states[lane]);
    }
  } else {
    std::array<decltype(op.finish(row, states[0])), V::size()> formulas;
    for (int64_t lane = 0; lane < V::size(); ++lane) {
      formulas[lane] = lane < n ? op.finish(row + lane, states[lane]) : formulas[0];
    }
    return formulas;
  }
}

template <class Op, class Formulas, class scalar_t, class... In>
void write_lanes(
    const RowShape& shape,
    const Op& op,
    const Formulas& formulas,
    int64_t row,
    int64_t n,
    const RowOperand<scalar_t>& out,
    const LaneReader<In>&... in
) {
  const auto formula = pack_lanes<Lanes<scalar_t>>(formulas);
  for (int64_t j = 0; j < shape.length; ++j) {
    write_lane(shape, out, row, n, j, op.value(formula, in(j)...));
  }
  for (int64_t lane = 0; lane < n; ++lane) {
    patch_target(op, row + lane, formulas[lane], 0);
  }
}

template <class Op, class... In>
void reduce_lanes(const RowShape& shape, const Op& op, const RowOperand<const In>&... in) {
  for_lanes(shape, Vectorized<AccOf<In...>>::size(), [&](int64_t row, int64_t n) {
    finished_lanes(shape, op, row, n, LaneReader<In>(shape, in, row, n)...);
  });
}

template <class Op, class scalar_t, class... In>
void map_lanes(
    const RowShape& shape, const Op& op, const RowOperand<scalar_t>& out, const RowOperand<const In>&... in
) {
  constexpr int64_t kLanes = Lanes<scalar_t>::size();
  for_lanes(shape, kLanes, [&](int64_t row, int64_t n) {
    std::array<decltype(op.formula(row)), kLanes> formulas;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      formulas[lane] = op.formula(row + std::min(lane, n - 1));
    }
    write_lanes(shape, op, formulas, row, n, out, LaneReader<In>(shape, in, row, n)...);
  });
}

template <class Op, class scalar_t, class... In>
void transform_lanes(
    const RowShape& shape, const Op& op, const RowOperand<scalar_t>& out, const RowOperand<const In>&... in
) {
  const auto both = [&](int64_t row, int64_t n, const LaneReader<In>&... readers) {
    const auto formulas = finished_lanes(shape, op, row, n, readers...);
    write_lanes(shape, op, formulas, row, n, out, readers...);
  };
  for_lanes(shape, Lanes<scalar_t>::size(), [&](int64_t row, int64_t n) {
    both(row, n, LaneReader<In>(shape, in, row, n)...);
  });
}

}  // namespace
}  // namespace torchnotes
