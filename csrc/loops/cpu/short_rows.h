// All passes over a few short rows of contiguous elements at a time, for one operation. Each row is read as whole
// vectors; the last one overlaps the one before if the length is not a multiple of the vector size, so that nothing is
// loaded or stored in parts. Rows shorter than a vector are masked vectors, where those are fast. The rows are merged
// together (merge_rows.h). Measured in docs/decisions/short-rows.md.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "loops/cpu/first_pass.h"
#include "loops/cpu/memory.h"
#include "loops/cpu/merge_rows.h"

namespace torchnotes {
namespace detail {

// A struct of vectors whose lanes are read one by one.
template <class V, class Vectors>
class Lanes {
  using T = typename V::value_type;

 public:
  explicit Lanes(const Vectors& vectors) {
    const auto members = members_of<V>(vectors);
    for (size_t k = 0; k < kMembers; ++k) {
      members[k].store(numbers_[k]);
    }
  }

  // Lane i, in all lanes.
  Vectors broadcast(int64_t i) const {
    std::array<V, kMembers> members;
    for (size_t k = 0; k < kMembers; ++k) {
      members[k] = V(numbers_[k][i]);
    }
    Vectors result;
    set_members(result, members);
    return result;
  }

 private:
  static constexpr size_t kMembers = sizeof(Vectors) / sizeof(V);
  alignas(64) T numbers_[kMembers][V::size()];
};

template <class T, class Op, bool reduces, bool maps, class Indices>
struct ShortRowsPass;

template <class T, class Op, bool reduces, bool maps, size_t... I>
struct ShortRowsPass<T, Op, reduces, maps, std::index_sequence<I...>> {
  using V = Vectorized<T>;
  static constexpr int64_t kSize = V::size();
  template <class State>
  using Chains = std::array<State, kChains>;

  // How a row divides into vectors.
  struct Length {
    explicit Length(int64_t n)
        : whole(n / kSize * kSize),
          chained(whole >= kWorthMerging * kSize ? whole / (kChains * kSize) * (kChains * kSize) : 0),
          last(std::max<int64_t>(0, n - kSize)),
          overlaps(n > whole),
          added(
              n < kSize ? V::arange(0, 1) < V(static_cast<T>(n)) : V::arange(0, 1) >= V(static_cast<T>(whole - last))
          ) {}

    int64_t whole, chained;  // elements in whole vectors, and in vectors that take turns
    int64_t last;            // where the last vector begins
    bool overlaps;           // whether it overlaps the one before, or is not a whole one
    V added;                 // a mask of the lanes that no vector before has
  };

  // The inputs of one row.
  template <class Load>
  struct Row {
    Load load;
    std::array<const typename Load::Element*, sizeof...(I)> x;

    // Calls f(x...) with the vectors from element j on.
    template <class F>
    auto at(int64_t j, const F& f) const {
      return f(load(x[I] + j)...);
    }
  };

  // Adds all elements of a row with add(state, j), which adds the vectors from element j on.
  template <class State, class F>
  static State add_all(const State& start, const Length& length, const F& add) {
    Chains<State> states;
    states.fill(start);
    int64_t j = 0;
    for (; j < length.chained; j += kChains * kSize) {
      unrolled<kChains>([&](auto k) { add(states[k], j + k * kSize); });
    }
    if (length.chained > 0) {  // the others take turns, too, so that no state adds more than another
      unrolled<kChains - 1>([&](auto k) {
        if (j < length.whole) {
          add(states[k + 1], j);
          j += kSize;
        }
      });
    }
    for (; j < length.whole; j += kSize) {
      add(states[0], j);
    }
    if (length.overlaps) {
      State added = states[0];
      add(added, length.last);
      states[0] = blend_lanes(states[0], added, length.added);
    }
    if (length.chained > 0) {
      merge_all(states);
    }
    return states[0];
  }

  // The prescans of all rows, one per lane.
  template <class RowAt>
  static auto prescanned(const Op& op, int64_t rows, const Length& length, const RowAt& row_at) {
    Uninitialized<std::array<decltype(op.template prescan<V>()), V::size()>> memory;
    auto& scans = memory.value;
    for (int64_t i = 0; i < rows; ++i) {
      const auto row = row_at(i);
      scans[i] = add_all(op.template prescan<V>(), length, [&](auto& state, int64_t j) {
        row.at(j, [&](const auto&... x) { op.scan(state, x...); });
      });
    }
    std::fill(scans.begin() + rows, scans.end(), scans[0]);
    return merge_rows<V>(scans);
  }

  // Adds a row, and writes what is kept for the second pass to `kept`. Prefetches the row that is `ahead` elements
  // ahead.
  template <class State, class Load>
  static State add_row(
      const Op& op, const State& start, const Length& length, const Row<Load>& row, int64_t ahead, T* kept
  ) {
    return add_all(start, length, [&](auto& state, int64_t j) {
      if constexpr (Prescans<Op>) {
        (__builtin_prefetch(row.x[I] + j + ahead), ...);
      }
      row.at(j, [&](const auto&... x) {
        if constexpr (Keeps<Op>) {
          op.kept_add(state, x...).store(kept + j);
        } else {
          op.add(state, x...);
        }
      });
    });
  }

  // The States of all rows, one per lane.
  template <class RowAt, class KeptAt>
  static auto reduced(
      const Op& op,
      int64_t first,
      int64_t rows,
      const Length& length,
      int64_t ahead,
      const RowAt& row_at,
      const KeptAt& kept_at
  ) {
    const auto merged = [&](const auto& start) {
      Uninitialized<std::array<std::remove_cvref_t<decltype(start(0))>, V::size()>> memory;
      auto& states = memory.value;
      for (int64_t i = 0; i < rows; ++i) {
        states[i] = add_row(op, start(i), length, row_at(i), ahead, kept_at(i));
      }
      std::fill(states.begin() + rows, states.end(), states[0]);
      return merge_rows<V>(states);
    };
    if constexpr (Prescans<Op>) {
      const auto prescans = prescanned(op, rows, length, row_at);
      const Lanes<V, std::remove_const_t<decltype(prescans)>> lanes(prescans);
      auto all = op.template start<V>(first, prescans);
      all.merge(merged([&](int64_t i) { return op.template start<V>(first + i, lanes.broadcast(i)); }));
      return StateOf<Op, V>(all);
    } else {
      return merged([&](int64_t i) { return op.template start<V>(first + i); });
    }
  }

  // Writes a row. value(j) is the vector from element j on. The overlapping vector is computed before its inputs may be
  // overwritten, and stored last.
  template <class Load, class F>
  static void write(const Load load, const Length& length, typename Load::Element* y, const F& value) {
    V rest;
    if (length.overlaps) {
      rest = value(length.last);
    }
    int64_t j = 0;
    if constexpr (Load::kNarrow && requires { &Load::store_pair; }) {
      for (; j + 2 * kSize <= length.whole; j += 2 * kSize) {
        const V a = value(j), b = value(j + kSize);
        load.store_pair(y + j, a, b, false);
      }
    }
    for (; j < length.whole; j += kSize) {
      load.store(y + j, value(j));
    }
    if (length.overlaps) {
      load.store(y + length.last, rest);
    }
  }

  // What the first pass keeps lies where the second writes, unless that has 16 bits or rows are shorter than a vector.
  static T* kept_in(const LoadAsIs<T>, T* y, T*) { return y; }
  template <class Load>
  static T* kept_in(const Load, typename Load::Element*, T* buffer) {
    return buffer;
  }

  TORCHNOTES_FLATTEN static void apply(const void* op_, int64_t first, const ShortRows<T>& of, const Output& out_) {
    const Op op = *static_cast<const Op*>(op_);
    const ShortRows<T> rows = of;  // in registers: a store may alias them
    const Output out = out_;
    const Length length(rows.length);
    const auto apply_groups = [&](const auto load) {
      for (int64_t begin = 0; begin < rows.rows; begin += rows.together) {
        apply_together(op, load, first + begin, begin, std::min(rows.together, rows.rows - begin), length, rows, out);
      }
    };
    const auto apply_all = [&](const auto load) {
      if constexpr (kShortestShort<T> < kSize) {
        if (rows.length < kSize) {
          apply_groups(LoadLanes<std::remove_const_t<decltype(load)>>{load, rows.length});
          return;
        }
      }
      apply_groups(load);
    };
    with_load_of_rows<T, Op>(rows.type, [&](const auto load) {
      if constexpr (maps) {
        with_narrow_type(load, apply_all);
      } else {
        apply_all(load);
      }
    });
  }

 private:
  // Processes n rows: the rows from `begin` on of the given ones, which are the rows from `first` on of all.
  template <class Load>
  static void apply_together(
      const Op& op,
      const Load load,
      int64_t first,
      int64_t begin,
      int64_t n,
      const Length& length,
      const ShortRows<T>& rows,
      const Output& out
  ) {
    using Element = typename Load::Element;
    const auto row_at = [&](int64_t i) {
      return Row<Load>{load, {static_cast<const Element*>(rows.in[I].data) + (begin + i) * rows.in[I].stride...}};
    };
    const auto y_at = [&](int64_t i) { return static_cast<Element*>(out.data) + (begin + i) * out.stride; };
    const auto kept_at = [&](int64_t i) {
      return kept_in(load, y_at(i), rows.buffer + i * std::max(kSize, rows.length));
    };
    const auto map = [&](int64_t i, const auto& formula) {
      if constexpr (maps) {
        const auto row = row_at(i);
        const T* const kept = kept_at(i);
        write(load, length, y_at(i), [&](int64_t j) {
          if constexpr (Keeps<Op>) {
            return op.kept_value(formula, V::loadu(kept + j));
          } else {
            return row.at(j, [&](const auto&... x) { return op.value(formula, x...); });
          }
        });
      }
    };
    const int64_t ahead = rows.together * rows.length;
    const auto map_all = [&](const auto& formulas) {
      const Lanes<V, std::remove_cvref_t<decltype(formulas)>> lanes(formulas);
      for (int64_t i = 0; i < n; ++i) {
        map(i, lanes.broadcast(i));
      }
      if constexpr (PatchesTarget<Op>) {
        op.patch_lanes(first, n, formulas);
      }
    };
    if constexpr (!reduces) {
      map_all(op.template formula_lanes<V>(first, n));
    } else if constexpr (!maps) {
      op.finish_lanes(first, n, reduced(op, first, n, length, ahead, row_at, kept_at));
    } else {
      map_all(op.finish_lanes(first, n, reduced(op, first, n, length, ahead, row_at, kept_at)));
    }
  }
};

}  // namespace detail
}  // namespace torchnotes
