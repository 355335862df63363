// All passes over neighboring rows that interleave, for one operation: each lane of a vector is a row, and some vectors
// are processed together, so that lines of cache are read as a whole. The first pass over them copies them, because
// elements that are a power of two apart evict each other from the cache. The last vector overlaps the one before if
// the number of rows is not a multiple of the vector size. Measured in docs/decisions/short-rows.md.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "loops/cpu/first_pass.h"
#include "loops/cpu/memory.h"

namespace torchnotes {

constexpr int kNeighborVectors = 4;  // vectors of rows that are processed together

namespace detail {

constexpr int64_t kAddedTogether = 16;  // elements of a row that are added to one state; their sums are merged

template <class T, class Op, bool reduces, bool maps, class Indices>
struct InterleavedRowsPass;

template <class T, class Op, bool reduces, bool maps, size_t... I>
struct InterleavedRowsPass<T, Op, reduces, maps, std::index_sequence<I...>> {
  using V = Vectorized<T>;
  static constexpr int64_t kSize = V::size();
  template <int n, class State>
  using Together = std::array<State, n>;

  // The first rows of n vectors: the last vector may overlap the one before.
  template <int n>
  struct FirstRows {
    int64_t last;
    int64_t operator[](int64_t k) const { return k == n - 1 ? last : k * kSize; }
  };

  // Sources of vectors. at(j, k, f) calls f(x...) with vector k of element j.
  template <int n, class Load>
  struct InPlace {
    Load load;
    FirstRows<n> first;
    std::array<const typename Load::Element*, sizeof...(I)> x;
    std::array<int64_t, sizeof...(I)> stride;

    template <class F>
    void at(int64_t j, int64_t k, const F& f) const {
      f(load(x[I] + j * stride[I] + first[k])...);
    }
  };
  struct Copy {
    std::array<T*, sizeof...(I)> x;
    int64_t stride;

    template <class F>
    void at(int64_t j, int64_t k, const F& f) const {
      f(V::loadu(x[I] + j * stride + k * kSize)...);
    }
    void store(int64_t j, int64_t k, const V& value) const { value.store(x[0] + j * stride + k * kSize); }
  };
  template <int n, class Load>
  struct Copying {
    InPlace<n, Load> from;
    Copy to;

    template <class F>
    void at(int64_t j, int64_t k, const F& f) const {
      from.at(j, k, [&](const auto&... values) {
        (values.store(to.x[I] + j * to.stride + k * kSize), ...);
        f(values...);
      });
    }
  };

  // Calls f(k, j, x...) with the n vectors of the elements [begin, end).
  template <int n, class Source, class F>
  static void for_vectors(const Source& source, int64_t begin, int64_t end, const F& f) {
    for (int64_t j = begin; j < end; ++j) {
      unrolled<n>([&](auto k) { source.at(j, k, [&](const auto&... x) { f(k, j, x...); }); });
    }
  }

  // Adds all elements to states, some at a time. What is kept for the second pass replaces the first input of `copy`.
  template <int n, class Source, class State>
  static void add_all(
      const Op& op, const Source& source, const Copy& copy, int64_t length, Together<n, State>& states
  ) {
    const Together<n, State> start = states;
    for (int64_t begin = 0; begin < length; begin += kAddedTogether) {
      Together<n, State> some = start;
      const int64_t end = std::min(begin + kAddedTogether, length);
      for_vectors<n>(source, begin, end, [&](auto k, int64_t j, const auto&... x) {
        if constexpr (Keeps<Op>) {
          copy.store(j, k, op.kept_add(some[k], x...));
        } else {
          op.add(some[k], x...);
        }
      });
      unrolled<n>([&](auto k) { states[k].merge(some[k]); });
    }
  }

  // The States of n vectors of rows, which are copied.
  template <int n, class Load>
  static auto reduced(const Op& op, int64_t first, const InPlace<n, Load>& rows, const Copy& copy, int64_t length) {
    const Copying<n, Load> copying{rows, copy};
    Together<n, StateOf<Op, V>> all;
    if constexpr (Prescans<Op>) {
      Together<n, decltype(op.template prescan<V>())> scans;
      scans.fill(op.template prescan<V>());
      for_vectors<n>(copying, 0, length, [&](auto k, int64_t, const auto&... x) { op.scan(scans[k], x...); });
      Together<n, std::remove_cvref_t<decltype(op.template start<V>(first, scans[0]))>> states;
      unrolled<n>([&](auto k) { states[k] = op.template start<V>(first, scans[k]); });
      add_all<n>(op, copy, copy, length, states);
      unrolled<n>([&](auto k) { all[k] = states[k]; });
    } else {
      all.fill(op.template start<V>(first));
      add_all<n>(op, copying, copy, length, all);
    }
    return all;
  }

  template <int n, class Load, class Source, class Formulas>
  static void map(
      const Op& op,
      const Load load,
      int64_t row,
      const FirstRows<n>& first,
      const Source& source,
      int64_t length,
      const Formulas& formulas,
      typename Load::Element* y,
      int64_t stride
  ) {
    for_vectors<n>(source, 0, length, [&](auto k, int64_t j, const auto&... x) {
      auto* const to = y + j * stride + first[k];
      if constexpr (reduces && Keeps<Op>) {
        load.store(to, op.kept_value(formulas[k], x...));
      } else {
        load.store(to, op.value(formulas[k], x...));
      }
    });
    if constexpr (PatchesTarget<Op>) {
      for (int k = 0; k < n; ++k) {
        op.patch_lanes(row + first[k], kSize, formulas[k]);
      }
    }
  }

  // Processes n vectors of the `count` rows from the one at `begin` on, which is `row` among all.
  template <int n, class Load>
  static void apply_together(
      const Op& op,
      const Load load,
      int64_t row,
      int64_t begin,
      int64_t count,
      const InterleavedRows<T>& rows,
      const Output& out
  ) {
    using Element = typename Load::Element;
    const FirstRows<n> first{count - kSize};
    const InPlace<n, Load> in_place{
        load, first, {static_cast<const Element*>(rows.in[I].data) + begin...}, {rows.in[I].stride...}
    };
    const Copy copy{{rows.buffer + I * rows.length * n * kSize...}, n * kSize};
    Element* const y = static_cast<Element*>(out.data) + begin;
    if constexpr (!reduces) {
      Together<n, decltype(op.template formula_lanes<V>(row, kSize))> formulas;
      for (int k = 0; k < n; ++k) {
        formulas[k] = op.template formula_lanes<V>(row + first[k], kSize);
      }
      map<n>(op, load, row, first, in_place, rows.length, formulas, y, out.stride);
    } else {
      const auto all = reduced<n>(op, row, in_place, copy, rows.length);
      if constexpr (maps) {
        Together<n, decltype(op.finish_lanes(row, kSize, all[0]))> formulas;
        for (int k = 0; k < n; ++k) {
          formulas[k] = op.finish_lanes(row + first[k], kSize, all[k]);
        }
        map<n>(op, load, row, first, copy, rows.length, formulas, y, out.stride);
      } else {
        for (int k = 0; k < n; ++k) {
          op.finish_lanes(row + first[k], kSize, all[k]);
        }
      }
    }
  }

  TORCHNOTES_FLATTEN static void apply(const void* op_, int64_t row, const InterleavedRows<T>& of, const Output& out_) {
    const Op op = *static_cast<const Op*>(op_);
    const InterleavedRows<T> rows = of;  // in registers: a store may alias them
    const Output out = out_;
    with_load_of_rows<T, Op>(rows.type, [&](const auto load) {
      constexpr int64_t kMost = kNeighborVectors * kSize;
      int64_t i = 0;
      for (; i + kMost - kSize < rows.rows; i += kMost) {
        apply_together<kNeighborVectors>(op, load, row + i, i, std::min(kMost, rows.rows - i), rows, out);
      }
      for (; i < rows.rows; i += kSize) {
        const int64_t begin = std::min(i, rows.rows - kSize);
        apply_together<1>(op, load, row + begin, begin, kSize, rows, out);
      }
    });
  }
};

}  // namespace detail
}  // namespace torchnotes
