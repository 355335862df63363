// The inner loops of both passes at once over segments or columns, for one operation whose Formula does not depend on
// the State: what is loaded is added and mapped.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "loops/cpu/first_pass.h"
#include "loops/cpu/second_pass.h"

namespace torchnotes {
namespace detail {

template <class T, class Op, class Indices>
struct BothPasses;

template <class T, class Op, size_t... I>
struct BothPasses<T, Op, std::index_sequence<I...>> {
  using First = FirstPass<T, typename FirstPassOf<Op>::type, std::index_sequence<I...>>;
  using Second = SecondPass<T, Op, std::index_sequence<I...>>;
  using V = Vectorized<T>;
  static constexpr int64_t kSize = V::size();
  using State = StateOf<Op, V>;
  using Constants = typename First::Constants;
  using Vectors = typename Second::Vectors;
  template <class Load>
  using Pointers = std::array<const typename Load::Element*, sizeof...(I)>;
  using Loaded = std::array<V, sizeof...(I)>;

  template <class S>
  static V add_and_map(const Op& op, S& state, const Constants& constants, const Vectors& f, const Loaded& x) {
    add_elements(op, state, constants, x[I]...);
    return op.value(f, x[I]...);
  }

  // Two States take turns. The last vector, which may overlap the one before, is loaded first and written last,
  // because `y` may be an input.
  template <class Load>
  static void add_and_map_segment(
      const Op& op,
      const Load load,
      State& sum,
      const Constants& constants,
      const Vectors& f,
      const Pointers<Load>& x,
      const Run<T>& run,
      typename Load::Element* y,
      bool streamed
  ) {
    const auto one = [&](auto& state, int64_t i) { return add_and_map(op, state, constants, f, {load(x[I] + i)...}); };
    const auto pairs = [&](auto& first, auto& second, int64_t begin, int64_t end) {
      int64_t i = begin;
      for (; i + 2 * kSize <= end; i += 2 * kSize) {
        (__builtin_prefetch(x[I] + i + run.ahead), ...);
        const V a = one(first, i), b = one(second, i + kSize);
        load.store_pair(y + i, a, b, streamed);
      }
      if (i < end) {
        load.store(y + i, one(first, i), streamed);
      }
    };
    const int64_t n = run.n * kSize, at = n + run.tail - kSize;
    const bool overlaps = run.n > 0 && run.tail > 0;
    V last{};
    const auto add_end = [&](auto& state) {
      auto added = state;
      if (overlaps) {
        last = one(added, at);
        state = blend_lanes<V>(added, state, kSize - run.tail);
      } else if (run.tail > 0) {
        last = add_and_map(op, added, constants, f, {load(x[I], run.tail)...});
        state = blend_lanes<V>(state, added, run.tail);
      }
    };
    if constexpr (AddsByParts<Op, Load>) {
      constexpr int64_t kMost = 2 * kPartial * kSize;
      auto first = op.template partial<V>(), second = first;
      add_end(first);
      pairs(first, second, 0, std::min(n, kMost));
      first.merge(second);
      sum.merge(first);
      for (int64_t i = kMost; i < n; i += kMost) {
        first = second = op.template partial<V>();
        pairs(first, second, i, std::min(n, i + kMost));
        first.merge(second);
        sum.merge(first);
      }
    } else {
      auto first = sum, second = op.template start<V>(0);
      add_end(first);
      pairs(first, second, 0, n);
      first.merge(second);
      sum = first;
    }
    if (overlaps) {
      load.store(y + at, last);
    } else if (run.tail > 0) {
      load.store_some(y, last, run.tail);
    }
  }

  TORCHNOTES_FLATTEN static void add_and_map_segments(
      const void* op_,
      const Run<T>& run_,
      void* sums,
      const StateMemory* constants,
      const StateMemory* formulas,
      const Output& out_
  ) {
    if constexpr (Stages<Op>) {
      First::add_segments(op_, run_, sums, constants);
      Second::map_segments(op_, formulas, run_, out_);
    } else {
      const Op op = *static_cast<const Op*>(op_);
      const Run<T> run = run_;
      const Output out = out_;
      auto* const states = static_cast<State*>(sums);
      with_load<T>(run.type, [&](const auto any) {
        with_narrow_type(any, [&](const auto load) {
          auto* y = static_cast<typename decltype(load)::Element*>(out.data);
          for (int64_t i = 0; i < run.segments; ++i) {
            const Constants of_row = First::constants_in(constants[i]);
            const Vectors f = broadcast<V>(as<typename Second::Formula>(formulas[i]));
            add_and_map_segment(op, load, states[i], of_row, f, Second::pointers(load, run, i), run, y, out.streamed);
            y += out.stride;
          }
        });
      });
    }
  }

  template <int n, class Load>
  static std::array<V, n> add_and_map_rows(
      const Op& op,
      const Load load,
      State& sum,
      const Constants& constants,
      const Vectors& f,
      const Pointers<Load>& x,
      const typename First::Strides& stride
  ) {
    Uninitialized<std::array<V, n>> y;
    const auto all = [&](auto& state) {
      unrolled<n>([&](auto k) { y.value[k] = add_and_map(op, state, constants, f, {load(x[I] + k * stride[I])...}); });
    };
    if constexpr (AddsByParts<Op, Load>) {
      auto few = op.template partial<V>();
      all(few);
      sum.merge(few);
    } else {
      State state = sum;  // in registers
      all(state);
      sum = state;
    }
    return y.value;
  }

  // Adds and maps n rows of a panel, from row j on.
  template <int n, class Load>
  static void add_and_map_together(
      const Op& op,
      const Load load,
      const Panel<T>& panel,
      int64_t j,
      State* sums,
      const ColumnMembers<T>& constants,
      const ColumnMembers<T>& formulas,
      const Output& out
  ) {
    const auto stride = First::strides(panel);
    const auto rows = First::pointers(load, panel, stride, j);
    auto* const y = static_cast<typename Load::Element*>(out.data) + j * out.stride;
    const auto values = [&](const auto from, State& sum, int64_t i) {
      First::template fetch_inputs<n>(load, panel, rows, i);
      Second::template fetch_output<n>(panel, out, y, i);
      const Constants of_columns = First::constants_at(constants, i);
      return add_and_map_rows<n>(op, from, sum, of_columns, Second::formula_at(formulas, i), {rows[I] + i...}, stride);
    };
    int64_t i = 0;
    if constexpr (Load::kNarrow) {
      for (; i + 2 * kSize <= panel.columns; i += 2 * kSize) {
        const auto a = values(load, sums[i / kSize], i), b = values(load, sums[i / kSize + 1], i + kSize);
        unrolled<n>([&](auto k) { load.store_pair(y + k * out.stride + i, a[k], b[k], out.streamed); });
      }
    }
    for (; i + kSize <= panel.columns; i += kSize) {
      const auto a = values(load, sums[i / kSize], i);
      unrolled<n>([&](auto k) { load.store(y + k * out.stride + i, a[k], out.streamed); });
    }
    if (i < panel.columns) {
      const int64_t lanes = panel.columns - i;
      State& sum = sums[i / kSize];
      State added = sum;
      const auto a = values(LoadLanes<Load>{load, lanes}, added, i);
      sum = blend_lanes<V>(sum, added, lanes);
      unrolled<n>([&](auto k) { load.store_some(y + k * out.stride + i, a[k], lanes); });
    }
  }

  TORCHNOTES_FLATTEN static void add_and_map_columns(
      const void* op_,
      const Panel<T>& panel_,
      void* sums,
      const ColumnMembers<T>& constants_,
      const ColumnMembers<T>& formulas_,
      const Output& out_
  ) {
    if constexpr (Stages<Op>) {
      First::add_columns(op_, panel_, sums, constants_);
      Second::map_columns(op_, formulas_, panel_, out_);
    } else {
      const Op op = *static_cast<const Op*>(op_);
      const Panel<T> panel = panel_;
      const ColumnMembers<T> constants = constants_, formulas = formulas_;
      const Output out = out_;
      auto* const states = static_cast<State*>(sums);
      with_load<T>(panel.type, [&](const auto any) {
        with_narrow_type(any, [&](const auto load) {
          int64_t j = 0;
          for (; j + kRowsTogether <= panel.length; j += kRowsTogether) {
            add_and_map_together<kRowsTogether>(op, load, panel, j, states, constants, formulas, out);
          }
          for (; j < panel.length; ++j) {
            add_and_map_together<1>(op, load, panel, j, states, constants, formulas, out);
          }
        });
      });
    }
  }
};

}  // namespace detail
}  // namespace torchnotes
