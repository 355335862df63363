// The inner loops of a first pass over rows, for one operation.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "loops/cpu/fetch.h"
#include "loops/cpu/memory.h"
#include "loops/cpu/staged.h"
#include "loops/cpu/vectors.h"

namespace torchnotes {
namespace detail {

constexpr int kChains = 4;            // States that take turns, so that an addition need not wait for the one before
constexpr int64_t kWorthMerging = 8;  // vectors
constexpr int64_t kPartial = 32;      // vectors that are added to a lighter state

template <class Op>
concept Prescans = requires(const Op& op) { op.template prescan<float>(); };
template <class Op>
concept HasPartial = requires(const Op& op) { op.template partial<float>(); };
template <class Op, class Load>
concept AddsByParts = HasPartial<Op> && Load::kNarrow;

// See row_shape.h.
template <class Op>
concept Keeps = Op::kKeeps;

template <class T, class Op, class Indices>
struct FirstPass;

template <class T, class Op, size_t... I>
struct FirstPass<T, Op, std::index_sequence<I...>> {
  using V = Vectorized<T>;
  static constexpr int64_t kSize = V::size();
  template <class Struct>
  using Chains = std::array<Struct, kChains>;
  using Formula = FormulaOf<Op, T>;
  static constexpr bool kMaps = !std::is_void_v<Formula>;

  static const Op& of(const void* op) { return *static_cast<const Op*>(op); }

  static auto constants_of_lanes(const Op& op, int64_t row, int64_t n) {
    if constexpr (has_row_constants<Op> && InLanes<Op>) {
      return op.template constants_lanes<V>(row, n);
    } else if constexpr (has_row_constants<Op>) {
      std::array<decltype(op.row_constants(row)), V::size()> lanes;
      for (int64_t lane = 0; lane < kSize; ++lane) {
        lanes[lane] = op.row_constants(row + std::min(lane, n - 1));
      }
      return packed<V>(lanes);
    } else {
      return NoConstants();
    }
  }
  using Constants = decltype(constants_of_lanes(std::declval<const Op&>(), 0, 0));

  template <class State>
  struct Sums {
    Chains<State> states;
    Constants constants;
    bool chained;  // whether all states are in use, or only the first
  };

  template <class Load>
  using Pointers = std::array<const typename Load::Element*, sizeof...(I)>;
  using Strides = std::array<int64_t, sizeof...(I)>;

  static constexpr Strides kContiguous{(void(I), kSize)...};

  // Adds n vectors to states[0], or in turns to all of them. `ahead`: 0 not to prefetch.
  template <bool fetches, class Load, class F, class State>
  static void add_vectors(
      const Load load,
      const F& add,
      Chains<State>& states,
      bool& chained,
      Pointers<Load> x,
      const Strides& stride,
      int64_t n,
      int64_t ahead
  ) {
    int64_t j = 0;
    if (n >= kWorthMerging) {
      chained = true;
      for (; j + kChains <= n; j += kChains) {
        unrolled<kChains>([&](auto k) {
          if constexpr (fetches) {
            (__builtin_prefetch(x[I] + k * stride[I] + ahead), ...);
          }
          add(states[k], load(x[I] + k * stride[I])...);
        });
        ((x[I] += kChains * stride[I]), ...);
      }
    }
    for (; j < n; ++j) {
      add(states[0], load(x[I])...);
      ((x[I] += stride[I]), ...);
    }
  }

  template <class Load, class F, class State>
  static void add_tail(const Load load, const F& add, State& state, const Pointers<Load>& x, int64_t tail) {
    if (tail > 0) {
      State added = state;
      add(added, load(x[I], tail)...);
      state = blend_lanes<V>(state, added, tail);
    }
  }

  template <class Load>
  static Pointers<Load> pointers(const Load, const Inputs<T>& inputs, const Strides& stride, int64_t i) {
    return {static_cast<const typename Load::Element*>(inputs.in[I].data) + i * stride[I]...};
  }
  static Strides strides(const Inputs<T>& inputs) { return {inputs.in[I].stride...}; }

  template <class State>
  static void merge_chains(Chains<State>& states, bool chained) {
    if (chained) {
      merge_all(states);
    }
  }

  template <class Load>
  static void add_run(const Op& op, const Load load, const Run<T>& run, Sums<StateOf<Op, V>>& sums) {
    auto x = pointers(load, run, kContiguous, 0);
    if constexpr (Stages<Op>) {
      add_staged(op, load, sums.states[0], sums.constants, x, kContiguous, run.n, run.tail);
    } else {
      auto states = sums.states;  // a copy that nothing can alias stays in registers
      const auto add = [&](auto& state, const auto&... values) { add_elements(op, state, sums.constants, values...); };
      add_vectors<true>(load, add, states, sums.chained, x, kContiguous, run.n, run.ahead);
      ((x[I] += run.n * kSize), ...);
      add_tail(load, add, states[0], x, run.tail);
      sums.states = states;
    }
  }

  // Adds n vectors, and a vector of `tail` elements after them.
  template <class Load>
  static void add_staged(
      const Op& op,
      const Load load,
      StateOf<Op, V>& state,
      const Constants& constants,
      const Pointers<Load>& x,
      const Strides& stride,
      int64_t n,
      int64_t tail
  ) {
    const auto add = [&](auto& to, const auto&... values) { op.staged_add(to, constants, values...); };
    const auto of_vector = [&](int64_t) -> const Constants& { return constants; };
    for (int64_t begin = 0; begin < n; begin += kStageVectors) {
      const int64_t some = std::min(kStageVectors, n - begin);
      const auto load_one = [&](size_t k, int64_t j) { return load(x[k] + (begin + j) * stride[k]); };
      const StagedInputs<T, Op, sizeof...(I)> inputs(op, some, load_one, of_vector);
      for (int64_t j = 0; j < some; ++j) {
        inputs.apply(j, [&](const auto&... values) { add(state, values...); });
      }
    }
    if (tail > 0) {
      const auto load_tail = [&](size_t k, int64_t) { return load(x[k] + n * stride[k], tail); };
      const StagedInputs<T, Op, sizeof...(I)> inputs(op, 1, load_tail, of_vector);
      auto added = state;
      inputs.apply(0, [&](const auto&... values) { add(added, values...); });
      state = blend_lanes<V>(state, added, tail);
    }
  }

  // The State of a run of one segment, after a prescan.
  template <class Load>
  static StateOf<Op, T> prescanned(const Op& op, const Load load, const Run<T>& run) {
    const auto scan = [&](auto& state, const auto&... x) { op.scan(state, x...); };
    const auto first = pointers(load, run, kContiguous, 0), rest = pointers(load, run, kContiguous, run.n);
    Chains<decltype(op.template prescan<V>())> scans;
    scans.fill(op.template prescan<V>());
    bool chained = false;
    add_vectors<false>(load, scan, scans, chained, first, kContiguous, run.n, 0);
    add_tail(load, scan, scans[0], rest, run.tail);
    merge_chains(scans, chained);
    auto prescan = op.template prescan<T>();
    merge_lanes<V>(scans[0], prescan);
    Chains<std::remove_cvref_t<decltype(op.template start<V>(0, prescan))>> states;
    states.fill(op.template start<V>(0, prescan));
    chained = false;
    const auto add = [&](auto& state, const auto&... x) { op.add(state, x...); };
    add_vectors<true>(load, add, states, chained, first, kContiguous, run.n, run.ahead);
    add_tail(load, add, states[0], rest, run.tail);
    merge_chains(states, chained);
    auto all = op.template start<T>(0, prescan);
    merge_lanes<V>(states[0], all);
    return all;
  }

  static void finish_one(const Op& op, int64_t row, const StateOf<Op, T>& all, StateMemory& formula) {
    if constexpr (kMaps) {
      put(formula, op.finish(row, all));
    } else {
      op.finish(row, all);
    }
  }

  TORCHNOTES_FLATTEN static void reduce(
      const void* op_,
      int64_t row,
      const Run<T>& run,
      Step step,
      AccumulatorMemory& memory,
      StateMemory& result,
      VectorMemory& packed
  ) {
    const Op& op = of(op_);
    StateOf<Op, T> all;
    if constexpr (Prescans<Op>) {
      auto& total = as<StateOf<Op, T>>(memory);
      with_load_of_rows<T, Op>(run.type, [&](const auto load) { all = prescanned(op, load, run); });
      if (!step.first) {
        total.merge(all);
        all = total;
      } else if (!step.last) {
        put(memory, all);
      }
      if (!step.last) {
        return;
      }
    } else {
      Sums<StateOf<Op, V>> sums;
      if (step.first) {
        sums.states.fill(op.template start<V>(row));
        if constexpr (has_row_constants<Op>) {
          sums.constants = broadcast<V>(op.row_constants(row));
        }
        sums.chained = false;
      } else {
        sums = as<Sums<StateOf<Op, V>>>(memory);
      }
      with_load_of_rows<T, Op>(run.type, [&](const auto load) { add_run(op, load, run, sums); });
      if (!step.last) {
        put(memory, sums);
        return;
      }
      merge_chains(sums.states, sums.chained);
      all = op.template start<T>(row);
      merge_lanes<V>(sums.states[0], all);
    }
    if (step.finishes) {
      finish_one(op, row, all, result);
      if constexpr (kMaps) {
        put(packed, broadcast<V>(as<Formula>(result)));
      }
    } else {
      put(result, all);
    }
  }

  TORCHNOTES_FLATTEN static void reduce_lanes(
      const void* op_,
      int64_t row,
      int64_t n,
      const LaneRun<T>& run,
      Step step,
      AccumulatorMemory& memory,
      StateMemory* formulas,
      VectorMemory& packed
  ) {
    const Op& op = of(op_);
    using State = StateOf<Op, V>;
    Sums<State> sums;
    if (step.first) {
      if constexpr (TakesShortRows<Op>) {
        sums.states.fill(op.template start<V>(row));
      } else {
        std::array<StateOf<Op, T>, V::size()> lanes;
        for (int64_t lane = 0; lane < kSize; ++lane) {
          lanes[lane] = op.template start<T>(row + std::min(lane, n - 1));
        }
        sums.states.fill(to_vectors<State, V>(lanes));
      }
      sums.constants = constants_of_lanes(op, row, n);
      sums.chained = false;
    } else {
      sums = as<Sums<State>>(memory);
    }
    with_load_of_rows<T, Op>(run.type, [&](const auto load) {
      const Strides stride = strides(run);
      const auto x = pointers(load, run, stride, 0);
      if constexpr (Stages<Op>) {
        add_staged(op, load, sums.states[0], sums.constants, x, stride, run.n, 0);
      } else {
        const auto add = [&](auto& state, const auto&... values) {
          add_elements(op, state, sums.constants, values...);
        };
        auto states = sums.states;
        add_vectors<false>(load, add, states, sums.chained, x, stride, run.n, 0);
        sums.states = states;
      }
    });
    if (!step.last) {
      put(memory, sums);
      return;
    }
    merge_chains(sums.states, sums.chained);
    finish_lanes(op, row, n, sums.states[0], formulas, packed);
  }

  // The Formulas of n rows, one per lane, or nothing. Those of the single rows go to `formulas`, unless it is null.
  static auto finished(const Op& op, int64_t row, int64_t n, const StateOf<Op, V>& all, StateMemory* formulas) {
    if constexpr (InLanes<Op>) {
      return op.finish_lanes(row, n, all);
    } else {
      std::array<StateOf<Op, T>, V::size()> lanes;
      to_scalars<V>(all, lanes.data());
      if constexpr (kMaps) {
        std::array<Formula, V::size()> of_lanes;
        for (int64_t lane = 0; lane < kSize; ++lane) {
          of_lanes[lane] = lane < n ? op.finish(row + lane, lanes[lane]) : of_lanes[0];
          if (formulas != nullptr) {
            put(formulas[lane], of_lanes[lane]);
          }
        }
        return packed<V>(of_lanes);
      } else {
        for (int64_t lane = 0; lane < n; ++lane) {
          op.finish(row + lane, lanes[lane]);
        }
      }
    }
  }
  static void finish_lanes(
      const Op& op, int64_t row, int64_t n, const StateOf<Op, V>& all, StateMemory* formulas, VectorMemory& packed
  ) {
    if constexpr (kMaps) {
      put(packed, finished(op, row, n, all, formulas));
    } else {
      finished(op, row, n, all, formulas);
    }
  }

  static void merge(StateMemory& state, const StateMemory& other) {
    as<StateOf<Op, T>>(state).merge(as<StateOf<Op, T>>(other));
  }

  static void finish(const void* op, int64_t row, const StateMemory& state, StateMemory& formula) {
    finish_one(of(op), row, as<StateOf<Op, T>>(state), formula);
  }

  static void start_segments(const void* op_, int64_t row, int64_t rows, void* sums, StateMemory* constants) {
    const Op& op = of(op_);
    static_assert(sizeof(StateOf<Op, V>) <= sizeof(VectorMemory));
    for (int64_t i = 0; i < rows; ++i) {
      new (static_cast<StateOf<Op, V>*>(sums) + i) StateOf<Op, V>(op.template start<V>(row + i));
      if constexpr (has_row_constants<Op>) {
        put(constants[i], op.row_constants(row + i));
      }
    }
  }

  template <class Load>
  static constexpr int64_t kPerLine =
      std::max<int64_t>(1, kLine / (kSize * sizeof(typename Load::Element)));  // vectors

  // Adds n vectors to two States that take turns.
  template <class Load, class F, class State>
  static void add_in_turn(
      const Load load, const F& add, State& first, State& second, const Pointers<Load>& x, int64_t n, int64_t ahead
  ) {
    int64_t i = 0;
    for (; i + 2 * kSize <= n * kSize; i += 2 * kSize) {
      (__builtin_prefetch(x[I] + i + ahead), ...);
      add(first, load(x[I] + i)...);
      if constexpr (kPerLine<Load> == 1) {
        (__builtin_prefetch(x[I] + i + kSize + ahead), ...);
      }
      add(second, load(x[I] + i + kSize)...);
    }
    if (i < n * kSize) {
      add(first, load(x[I] + i)...);
    }
  }

  // Adds a vector of `tail` elements after n vectors: as the end of a whole vector, if there is one.
  template <class Load, class F, class State>
  static void add_end(const Load load, const F& add, State& state, const Pointers<Load>& x, int64_t n, int64_t tail) {
    State added = state;
    if (n > 0) {
      add(added, load(x[I] + (n - 1) * kSize + tail)...);
      state = blend_lanes<V>(added, state, kSize - tail);
    } else {
      add(added, load(x[I], tail)...);
      state = blend_lanes<V>(state, added, tail);
    }
  }

  template <class Load, class RowConstants>
  static void add_segment(
      const Op& op,
      const Load load,
      StateOf<Op, V>& sum,
      const RowConstants& constants,
      const Pointers<Load>& x,
      const Run<T>& run
  ) {
    const auto add = [&](auto& state, const auto&... values) { add_elements(op, state, constants, values...); };
    if constexpr (AddsByParts<Op, Load>) {
      int64_t n = run.n;
      auto at = x;
      do {
        const int64_t some = std::min(n, 2 * kPartial);
        auto first = op.template partial<V>(), second = first;
        add_in_turn(load, add, first, second, at, some, run.ahead);
        n -= some;
        if (n == 0 && run.tail > 0) {
          add_end(load, add, first, at, some, run.tail);
        }
        first.merge(second);
        sum.merge(first);
        ((at[I] += some * kSize), ...);
      } while (n > 0);
    } else {
      auto first = sum, second = op.template start<V>(0);
      add_in_turn(load, add, first, second, x, run.n, run.ahead);
      if (run.tail > 0) {
        add_end(load, add, first, x, run.n, run.tail);
      }
      first.merge(second);
      sum = first;
    }
  }

  static Constants constants_in(const StateMemory& memory) {
    if constexpr (has_row_constants<Op>) {
      return broadcast<V>(as<decltype(std::declval<const Op&>().row_constants(0))>(memory));
    } else {
      return NoConstants();
    }
  }

  TORCHNOTES_FLATTEN static void add_segments(
      const void* op_, const Run<T>& run_, void* sums, const StateMemory* constants
  ) {
    const Op op = of(op_);
    const Run<T> run = run_;
    auto* const states = static_cast<StateOf<Op, V>*>(sums);
    const Strides jump = strides(run);
    with_load<T>(run.type, [&](const auto any) {
      with_narrow_type(any, [&](const auto load) {
        for (int64_t i = 0; i < run.segments; ++i) {
          const Constants of_row = constants_in(constants[i]);
          const auto x = pointers(load, run, jump, i);
          if constexpr (Stages<Op>) {
            add_staged(op, load, states[i], of_row, x, kContiguous, run.n, run.tail);
          } else {
            add_segment(op, load, states[i], of_row, x, run);
          }
        }
      });
    });
  }

  static void merge_segments(const void* op_, int64_t row, int64_t rows, const void* sums, StateMemory* states) {
    for (int64_t i = 0; i < rows; ++i) {
      auto all = of(op_).template start<T>(row + i);
      merge_lanes<V>(static_cast<const StateOf<Op, V>*>(sums)[i], all);
      put(states[i], all);
    }
  }

  static void column_constants(const void* op, int64_t begin, int64_t end, const ColumnMembers<T>& constants) {
    if constexpr (has_row_constants<Op>) {
      set_columns<V>(constants, begin, end, [&](int64_t i, int64_t n) { return constants_of_lanes(of(op), i, n); });
    }
  }
  static Constants constants_at(const ColumnMembers<T>& constants, int64_t column) {
    if constexpr (has_row_constants<Op>) {
      return vectors_at<Constants>(constants.members + column, constants.stride);
    } else {
      return NoConstants();
    }
  }

  static void start_columns(const void* op, int64_t vectors, void* sums) {
    for (int64_t i = 0; i < vectors; ++i) {
      new (static_cast<StateOf<Op, V>*>(sums) + i) StateOf<Op, V>(of(op).template start<V>(0));
    }
  }

  // Adds n rows of one vector of columns.
  template <int n, class Load>
  static void add_rows(
      const Load load,
      const Op& op,
      const Pointers<Load>& x,
      const Strides& stride,
      StateOf<Op, V>& sum,
      const Constants& constants
  ) {
    const auto add = [&](auto& state) {
      unrolled<n>([&](auto k) { add_elements(op, state, constants, load(x[I] + k * stride[I])...); });
    };
    if constexpr (AddsByParts<Op, Load>) {
      auto few = op.template partial<V>();
      add(few);
      sum.merge(few);
    } else {
      auto state = sum;  // in registers
      add(state);
      sum = state;
    }
  }

  // Prefetches as much of contiguous rows as n vectors have, while n rows are added side by side at column i. Two
  // inputs go to L2, because L1 has no room for both.
  template <int n, class Load>
  C10_ALWAYS_INLINE static void fetch_inputs(const Load, const Panel<T>& panel, const Pointers<Load>& rows, int64_t i) {
    constexpr Fetched kFetched = sizeof...(I) > 1 ? kIntoL2 : kIntoL1;
    if (n > 1 && panel.contiguous) {
      (fetch<n * kSize * sizeof(typename Load::Element), kFetched>(rows[I] + i * n), ...);
    }
  }

  // Adds n rows of a panel, from row j on.
  template <int n, class Load>
  static void add_together(
      const Load load,
      const Op& op,
      const Panel<T>& panel,
      int64_t j,
      StateOf<Op, V>* sums,
      const ColumnMembers<T>& constants
  ) {
    const Strides stride = strides(panel);
    const auto rows = pointers(load, panel, stride, j);
    auto x = rows;
    int64_t i = 0;
    for (; i + kSize <= panel.columns; i += kSize, ++sums) {
      fetch_inputs<n>(load, panel, rows, i);
      add_rows<n>(load, op, x, stride, *sums, constants_at(constants, i));
      ((x[I] += kSize), ...);
    }
    if (i < panel.columns) {
      const int64_t lanes = panel.columns - i;
      auto added = *sums;
      for (int k = 0; k < n; ++k) {
        add_rows<1>(LoadLanes<Load>{load, lanes}, op, x, stride, added, constants_at(constants, i));
        ((x[I] += stride[I]), ...);
      }
      *sums = blend_lanes<V>(*sums, added, lanes);
    }
  }

  template <class Load>
  TORCHNOTES_FLATTEN static void add_panel(
      const Load load, const Op op, const Panel<T> panel, StateOf<Op, V>* sums, const ColumnMembers<T> constants
  ) {
    int64_t j = 0;
    for (; j + kRowsTogether <= panel.length; j += kRowsTogether) {
      add_together<kRowsTogether>(load, op, panel, j, sums, constants);
    }
    for (; j < panel.length; ++j) {
      add_together<1>(load, op, panel, j, sums, constants);
    }
  }

  static void add_columns(const void* op, const Panel<T>& panel, void* sums_, const ColumnMembers<T>& constants) {
    auto* sums = static_cast<StateOf<Op, V>*>(sums_);
    with_load<T>(panel.type, [&](const auto load) {
      if constexpr (Stages<Op>) {
        for (int64_t i = 0; i < panel.columns; i += kSize, ++sums) {
          const LoadLanes some{load, std::min(kSize, panel.columns - i)};
          auto x = pointers(some, panel, kContiguous, 0);
          ((x[I] += i), ...);
          auto added = *sums;
          add_staged(of(op), some, added, constants_at(constants, i), x, strides(panel), panel.length, 0);
          *sums = some.lanes == kSize ? added : blend_lanes<V>(*sums, added, some.lanes);
        }
      } else {
        with_narrow_type(load, [&](const auto one_type) { add_panel(one_type, of(op), panel, sums, constants); });
      }
    });
  }

  static void merge_columns(int64_t vectors, void* sums, const void* others) {
    for (int64_t i = 0; i < vectors; ++i) {
      static_cast<StateOf<Op, V>*>(sums)[i].merge(static_cast<const StateOf<Op, V>*>(others)[i]);
    }
  }

  // Merges the lanes of each column and leaves one column per lane, in the same memory.
  static void fold_columns(int64_t columns, int64_t width, void* sums) {
    static_assert(sizeof(StateOf<Op, V>) == kSize * sizeof(StateOf<Op, T>));
    auto* const vectors = static_cast<StateOf<Op, V>*>(sums);
    auto* const scalars = static_cast<StateOf<Op, T>*>(sums);
    for (int64_t i = 0; i < width; i += kSize) {
      std::array<StateOf<Op, T>, V::size()> lanes;
      to_scalars<V>(vectors[i / kSize], lanes.data());
      std::copy(lanes.begin(), lanes.end(), scalars + i);
    }
    for (int64_t i = columns, column = 0; i < width; ++i) {
      scalars[column].merge(scalars[i]);
      column = column + 1 < columns ? column + 1 : 0;
    }
    for (int64_t i = 0; i < columns; i += kSize) {
      vectors[i / kSize] = vectors_from<StateOf<Op, V>, V>([&](int lane) { return scalars[i + lane]; });
    }
  }

  static void finish_columns(
      const void* op, int64_t begin, int64_t end, const void* sums, const ColumnMembers<T>* formulas
  ) {
    const auto finish = [&](int64_t column, int64_t n) {
      return finished(of(op), column, n, static_cast<const StateOf<Op, V>*>(sums)[column / kSize], nullptr);
    };
    if constexpr (kMaps) {
      if (formulas != nullptr) {
        set_columns<V>(*formulas, begin, end, finish);
        return;
      }
    }
    for (int64_t column = begin; column < end; column += kSize) {
      finish(column, std::min(kSize, end - column));
    }
  }
};

}  // namespace detail
}  // namespace torchnotes
