// All passes over neighboring rows that interleave, for one operation: each lane of a vector is a row, and some vectors
// are processed together, so that lines of cache are read as a whole. The last vector overlaps the one before if the
// number of rows is not a multiple of the vector size. Measured in docs/decisions/short-rows.md.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "loops/cpu/first_pass.h"
#include "loops/cpu/memory.h"

namespace torchnotes {
namespace detail {

constexpr int kNeighborVectors = 4;     // vectors of rows that are processed together
constexpr int64_t kAddedTogether = 16;  // elements of a row that are added to one state; their sums are merged

template <class T, class Op, bool reduces, bool maps, class Indices>
struct InterleavedRowsPass;

template <class T, class Op, bool reduces, bool maps, size_t... I>
struct InterleavedRowsPass<T, Op, reduces, maps, std::index_sequence<I...>> {
  using V = Vectorized<T>;
  static constexpr int64_t kSize = V::size();
  template <int n, class State>
  using Together = std::array<State, n>;

  // Calls f(k, j, x...) with vector k of n of element j, for the elements [begin, end).
  template <int n, class Load, class Pointers, class F>
  static void for_vectors(
      const Load load, const Pointers& x, const InterleavedRows<T>& rows, int64_t begin, int64_t end, const F& f
  ) {
    for (int64_t j = begin; j < end; ++j) {
      unrolled<n>([&](auto k) { f(k, j, load(x[I] + j * rows.in[I].stride + k * kSize)...); });
    }
  }

  // Adds all elements to states, some at a time. add(state, k, j, x...) adds those of vector k.
  template <int n, class Load, class Pointers, class State, class F>
  static void add_all(
      const Load load, const Pointers& x, const InterleavedRows<T>& rows, Together<n, State>& states, const F& add
  ) {
    const Together<n, State> start = states;
    for (int64_t begin = 0; begin < rows.length; begin += kAddedTogether) {
      Together<n, State> some = start;
      for_vectors<n>(
          load,
          x,
          rows,
          begin,
          std::min(begin + kAddedTogether, rows.length),
          [&](auto k, int64_t j, const auto&... of) { add(some[k], k, j, of...); }
      );
      unrolled<n>([&](auto k) { states[k].merge(some[k]); });
    }
  }

  // The States of n vectors of rows. What is kept for the second pass goes to `y`.
  template <int n, class Load, class Pointers>
  static auto reduced(
      const Op& op,
      int64_t first,
      const Load load,
      const Pointers& x,
      const InterleavedRows<T>& rows,
      typename Load::Element* y,
      int64_t stride
  ) {
    const auto add = [&](auto& state, auto k, int64_t j, const auto&... of) {
      if constexpr (kKept<Load>) {
        op.kept_add(state, of...).store(y + j * stride + k * kSize);
      } else {
        op.add(state, of...);
      }
    };
    Together<n, StateOf<Op, V>> all;
    if constexpr (Prescans<Op>) {
      Together<n, decltype(op.template prescan<V>())> scans;
      scans.fill(op.template prescan<V>());
      for_vectors<n>(load, x, rows, 0, rows.length, [&](auto k, int64_t, const auto&... of) {
        op.scan(scans[k], of...);
      });
      Together<n, std::remove_cvref_t<decltype(op.template start<V>(first, scans[0]))>> states;
      unrolled<n>([&](auto k) { states[k] = op.template start<V>(first, scans[k]); });
      add_all<n>(load, x, rows, states, add);
      unrolled<n>([&](auto k) { all[k] = states[k]; });
    } else {
      all.fill(op.template start<V>(first));
      add_all<n>(load, x, rows, all, add);
    }
    return all;
  }

  template <class Load>
  static constexpr bool kKept = Keeps<Op> && !Load::kNarrow;

  template <int n, class Load, class Pointers, class Formulas>
  static void map(
      const Op& op,
      const Load load,
      int64_t first,
      const Pointers& x,
      const InterleavedRows<T>& rows,
      typename Load::Element* y,
      int64_t stride,
      const Formulas& formulas
  ) {
    for_vectors<n>(load, x, rows, 0, rows.length, [&](auto k, int64_t j, const auto&... of) {
      auto* const to = y + j * stride + k * kSize;
      if constexpr (reduces && kKept<Load>) {
        load.store(to, op.kept_value(formulas[k], load(to)));
      } else {
        load.store(to, op.value(formulas[k], of...));
      }
    });
    if constexpr (PatchesTarget<Op>) {
      for (int k = 0; k < n; ++k) {
        op.patch_lanes(first + k * kSize, kSize, formulas[k]);
      }
    }
  }

  template <int n, class Load>
  static void apply_together(
      const Op& op, const Load load, int64_t first, int64_t at, const InterleavedRows<T>& rows, const Output& out
  ) {
    using Element = typename Load::Element;
    const std::array<const Element*, sizeof...(I)> x{static_cast<const Element*>(rows.in[I].data) + at...};
    Element* const y = static_cast<Element*>(out.data) + at;
    if constexpr (!reduces) {
      Together<n, decltype(op.template formula_lanes<V>(first, kSize))> formulas;
      for (int k = 0; k < n; ++k) {
        formulas[k] = op.template formula_lanes<V>(first + k * kSize, kSize);
      }
      map<n>(op, load, first, x, rows, y, out.stride, formulas);
    } else {
      const auto all = reduced<n>(op, first, load, x, rows, y, out.stride);
      if constexpr (maps) {
        Together<n, decltype(op.finish_lanes(first, kSize, all[0]))> formulas;
        for (int k = 0; k < n; ++k) {
          formulas[k] = op.finish_lanes(first + k * kSize, kSize, all[k]);
        }
        map<n>(op, load, first, x, rows, y, out.stride, formulas);
      } else {
        for (int k = 0; k < n; ++k) {
          op.finish_lanes(first + k * kSize, kSize, all[k]);
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
      for (; i + kMost <= rows.rows; i += kMost) {
        apply_together<kNeighborVectors>(op, load, row + i, i, rows, out);
      }
      for (; i < rows.rows; i += kSize) {
        const int64_t at = std::min(i, rows.rows - kSize);
        apply_together<1>(op, load, row + at, at, rows, out);
      }
    });
  }
};

}  // namespace detail
}  // namespace torchnotes
