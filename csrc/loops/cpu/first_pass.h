// The inner loops of a first pass over rows, for one operation.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "loops/cpu/memory.h"
#include "loops/cpu/vectors.h"

namespace torchnotes {
namespace detail {

constexpr int kChains = 4;             // States that take turns, so that an addition need not wait for the one before
constexpr int64_t kWorthMerging = 8;   // vectors
constexpr int64_t kPartial = 32;       // vectors that are added to a lighter state
constexpr int64_t kPrescanned = 4096;  // elements; small enough to stay in L1
constexpr int64_t kWhole = 32768;
constexpr int kTogether = 4;  // vectors of columns

template <class Op>
concept Prescans = requires(const Op& op) { op.template prescan<float>(); };
template <class Op>
concept HasPartial = requires(const Op& op) { op.template partial<float>(); };

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
    if constexpr (has_row_constants<Op>) {
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

  // Adds n vectors to states[0], or in turns to all of them.
  template <bool fetches, class Load, class F, class State>
  static void add_vectors(
      const Load load, const F& add, Chains<State>& all, bool& chained, const Run<T>& run, int64_t begin, int64_t end
  ) {
    using Element = typename Load::Element;
    auto states = all;  // a copy that nothing can alias stays in registers
    const std::array<int64_t, sizeof...(I)> stride{run.in[I].stride...};
    std::array<const Element*, sizeof...(I)> x{
        static_cast<const Element*>(run.in[I].data) + begin * run.in[I].stride...
    };
    int64_t j = begin;
    if (end - begin >= kWorthMerging) {
      chained = true;
      for (; j + kChains <= end; j += kChains) {
        unrolled<kChains>([&](auto k) {
          if constexpr (fetches) {
            (__builtin_prefetch(x[I] + k * stride[I] + run.ahead), ...);
          }
          add(states[k], load(x[I] + k * stride[I])...);
        });
        ((x[I] += kChains * stride[I]), ...);
      }
    }
    for (; j < end; ++j) {
      add(states[0], load(x[I])...);
      ((x[I] += stride[I]), ...);
    }
    all = states;
  }

  template <class Load, class F, class State>
  static void add_tail(const Load load, const F& add, State& state, const Run<T>& run) {
    if (run.tail > 0) {
      using Element = typename Load::Element;
      State added = state;
      add(added, load(static_cast<const Element*>(run.in[I].data) + run.n * run.in[I].stride, run.tail)...);
      state = blend_lanes<V>(state, added, run.tail);
    }
  }

  template <class State>
  static void merge_chains(Chains<State>& states, bool chained) {
    for (int half = kChains / 2; half > 0 && chained; half /= 2) {
      for (int k = 0; k < half; ++k) {
        states[k].merge(states[k + half]);
      }
    }
  }

  // Adds a run to the states, by way of lighter states if the numbers have 16 bits.
  template <bool fetches, class Load>
  static void add_run(const Op& op, const Load load, const Run<T>& run, Sums<StateOf<Op, V>>& sums) {
    const auto add = [&](auto& state, const auto&... x) { add_elements(op, state, sums.constants, x...); };
    if constexpr (Stages<Op>) {
      add_staged(op, load, run, sums);
    } else if constexpr (HasPartial<Op> && Load::kNarrow) {
      for (int64_t j = 0; j < run.n; j += kPartial * kChains) {
        Chains<decltype(op.template partial<V>())> few;
        few.fill(op.template partial<V>());
        add_vectors<fetches>(load, add, few, sums.chained, run, j, std::min(run.n, j + kPartial * kChains));
        for (int k = 0; k < kChains; ++k) {
          sums.states[k].merge(few[k]);
        }
      }
    } else {
      add_vectors<fetches>(load, add, sums.states, sums.chained, run, 0, run.n);
    }
    if constexpr (!Stages<Op>) {
      add_tail(load, add, sums.states[0], run);
    }
  }

  template <class Load>
  static void add_staged(const Op& op, const Load load, const Run<T>& run, Sums<StateOf<Op, V>>& sums) {
    using Element = typename Load::Element;
    const auto add = [&](auto& state, const auto&... x) { op.staged_add(state, sums.constants, x...); };
    const auto at = [&](size_t k, int64_t j) {
      return static_cast<const Element*>(run.in[k].data) + j * run.in[k].stride;
    };
    const auto constants = [&](int64_t) { return sums.constants; };
    for (int64_t begin = 0; begin < run.n; begin += kStaged) {
      const int64_t n = std::min(kStaged, run.n - begin);
      const StagedInputs<T, Op, sizeof...(I)> inputs(
          op, n, [&](size_t k, int64_t j) { return load(at(k, begin + j)); }, constants
      );
      for (int64_t j = 0; j < n; ++j) {
        inputs.apply(j, [&](const auto&... x) { add(sums.states[0], x...); });
      }
    }
    if (run.tail > 0) {
      const StagedInputs<T, Op, sizeof...(I)> inputs(
          op, 1, [&](size_t k, int64_t) { return load(at(k, run.n), run.tail); }, constants
      );
      auto added = sums.states[0];
      inputs.apply(0, [&](const auto&... x) { add(added, x...); });
      sums.states[0] = blend_lanes<V>(sums.states[0], added, run.tail);
    }
  }

  // The State of a run, after a prescan.
  template <class Load>
  static StateOf<Op, T> prescanned(const Op& op, const Load load, const Run<T>& run) {
    const auto scan = [&](auto& state, const auto&... x) { op.scan(state, x...); };
    Chains<decltype(op.template prescan<V>())> scans;
    scans.fill(op.template prescan<V>());
    bool chained = false;
    add_vectors<false>(load, scan, scans, chained, run, 0, run.n);
    add_tail(load, scan, scans[0], run);
    merge_chains(scans, chained);
    auto prescan = op.template prescan<T>();
    merge_lanes<V>(scans[0], prescan);
    Chains<std::remove_cvref_t<decltype(op.template start<V>(0, prescan))>> states;
    states.fill(op.template start<V>(0, prescan));
    chained = false;
    const auto add = [&](auto& state, const auto&... x) { op.add(state, x...); };
    add_vectors<true>(load, add, states, chained, run, 0, run.n);
    add_tail(load, add, states[0], run);
    merge_chains(states, chained);
    auto all = op.template start<T>(0, prescan);
    merge_lanes<V>(states[0], all);
    return all;
  }

  static void finish_one(
      const Op& op, int64_t row, const StateOf<Op, T>& all, StateMemory& formula, VectorMemory& packed
  ) {
    if constexpr (kMaps) {
      const Formula f = op.finish(row, all);
      put(formula, f);
      put(packed, broadcast<V>(f));
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
      with_load<T>(run.type, [&](const auto load) { all = prescanned(op, load, run); });
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
      with_load<T>(run.type, [&](const auto load) { add_run<true>(op, load, run, sums); });
      if (!step.last) {
        put(memory, sums);
        return;
      }
      merge_chains(sums.states, sums.chained);
      all = op.template start<T>(row);
      merge_lanes<V>(sums.states[0], all);
    }
    if (step.finishes) {
      finish_one(op, row, all, result, packed);
    } else {
      put(result, all);
    }
  }

  TORCHNOTES_FLATTEN static void reduce_lanes(
      const void* op_,
      int64_t row,
      int64_t n,
      const Run<T>& run,
      Step step,
      AccumulatorMemory& memory,
      StateMemory* formulas,
      VectorMemory& packed
  ) {
    const Op& op = of(op_);
    using State = StateOf<Op, V>;
    Sums<State> sums;
    std::array<StateOf<Op, T>, V::size()> lanes;
    if (step.first) {
      for (int64_t lane = 0; lane < kSize; ++lane) {
        lanes[lane] = op.template start<T>(row + std::min(lane, n - 1));
      }
      sums.states.fill(to_vectors<State, V>(lanes));
      sums.constants = constants_of_lanes(op, row, n);
      sums.chained = false;
    } else {
      sums = as<Sums<State>>(memory);
    }
    with_load<T>(run.type, [&](const auto load) { add_run<false>(op, load, run, sums); });
    if (!step.last) {
      put(memory, sums);
      return;
    }
    merge_chains(sums.states, sums.chained);
    to_scalars<V>(sums.states[0], lanes.data());
    if constexpr (kMaps) {
      std::array<Formula, V::size()> of_lanes;
      for (int64_t lane = 0; lane < kSize; ++lane) {
        of_lanes[lane] = lane < n ? op.finish(row + lane, lanes[lane]) : of_lanes[0];
        put(formulas[lane], of_lanes[lane]);
      }
      put(packed, torchnotes::packed<V>(of_lanes));
    } else {
      for (int64_t lane = 0; lane < n; ++lane) {
        op.finish(row + lane, lanes[lane]);
      }
    }
  }

  static void merge(StateMemory& state, const StateMemory& other) {
    as<StateOf<Op, T>>(state).merge(as<StateOf<Op, T>>(other));
  }

  static void finish(const void* op, int64_t row, const StateMemory& state, StateMemory& formula) {
    const auto& all = as<StateOf<Op, T>>(state);
    if constexpr (kMaps) {
      put(formula, of(op).finish(row, all));
    } else {
      of(op).finish(row, all);
    }
  }

  static void start_columns(const void* op_, int64_t columns, void* sums, void* constants) {
    const Op& op = of(op_);
    for (int64_t i = 0; i * kSize < columns; ++i) {
      const int64_t first = i * kSize;
      new (static_cast<StateOf<Op, V>*>(sums) + i) StateOf<Op, V>(op.template start<V>(first));
      new (static_cast<Constants*>(constants) + i)
          Constants(constants_of_lanes(op, first, std::min(kSize, columns - first)));
    }
  }

  // Adds a panel of n vectors of columns, the last of which may have fewer `lanes`.
  template <int n, class Load>
  TORCHNOTES_FLATTEN static void add_together(
      const Load load,
      const Op& op,
      const Panel<T>& panel,
      int64_t first,
      int64_t lanes,
      int64_t ahead,
      StateOf<Op, V>* sums,
      const Constants* constants
  ) {
    using Element = typename Load::Element;
    std::array<Constants, n> of_columns;
    std::copy_n(constants, n, of_columns.begin());
    const auto add_all = [&](auto& states) {
      std::array<const Element*, sizeof...(I)> x{static_cast<const Element*>(panel.in[I].data) + first...};
      for (int64_t j = 0; j < panel.length; ++j) {
        unrolled<n>([&](auto k) {
          (__builtin_prefetch(x[I] + k * kSize + ahead), ...);
          if (n > 1 || lanes == kSize) {
            add_elements(op, states[k], of_columns[k], load(x[I] + k * kSize)...);
          } else {
            add_elements(op, states[k], of_columns[k], load(x[I] + k * kSize, lanes)...);
          }
        });
        ((x[I] += panel.in[I].stride), ...);
      }
    };
    if constexpr (HasPartial<Op> && Load::kNarrow) {
      std::array<decltype(op.template partial<V>()), n> few;
      few.fill(op.template partial<V>());
      add_all(few);
      unrolled<n>([&](auto k) { sums[k].merge(few[k]); });
    } else {
      std::array<StateOf<Op, V>, n> states;
      std::copy_n(sums, n, states.begin());
      add_all(states);
      std::copy_n(states.begin(), n, sums);
    }
  }

  template <class Load>
  static void add_staged_columns(
      const Load load, const Op& op, const Panel<T>& panel, StateOf<Op, V>* sums, const Constants* constants
  ) {
    using Element = typename Load::Element;
    for (int64_t i = 0; i < panel.columns; i += kSize, ++sums, ++constants) {
      const int64_t lanes = std::min(kSize, panel.columns - i);
      for (int64_t begin = 0; begin < panel.length; begin += kStaged) {
        const int64_t n = std::min(kStaged, panel.length - begin);
        const auto load_one = [&](size_t k, int64_t j) {
          const auto* const x = static_cast<const Element*>(panel.in[k].data) + (begin + j) * panel.in[k].stride + i;
          return lanes == kSize ? load(x) : load(x, lanes);
        };
        const StagedInputs<T, Op, sizeof...(I)> inputs(op, n, load_one, [&](int64_t) { return *constants; });
        for (int64_t j = 0; j < n; ++j) {
          inputs.apply(j, [&](const auto&... x) { op.staged_add(*sums, *constants, x...); });
        }
      }
    }
  }

  static void add_columns(const void* op, const Panel<T>& panel, void* sums_, const void* constants_) {
    auto* sums = static_cast<StateOf<Op, V>*>(sums_);
    const auto* constants = static_cast<const Constants*>(constants_);
    constexpr int64_t kWidth = kTogether * kSize;
    const int64_t next_panel = panel.length * panel.in[0].stride;
    with_load<T>(panel.type, [&](const auto load) {
      if constexpr (Stages<Op>) {
        add_staged_columns(load, of(op), panel, sums, constants);
      } else {
        int64_t i = 0;
        for (; i + kWidth <= panel.columns; i += kWidth) {
          const int64_t ahead = i + 2 * kWidth <= panel.columns ? kWidth : next_panel - i;
          add_together<kTogether>(load, of(op), panel, i, kSize, ahead, sums + i / kSize, constants + i / kSize);
        }
        for (; i < panel.columns; i += kSize) {
          const int64_t lanes = std::min(kSize, panel.columns - i);
          add_together<1>(load, of(op), panel, i, lanes, next_panel, sums + i / kSize, constants + i / kSize);
        }
      }
    });
  }

  static void total_columns(int64_t columns, const void* sums, StateMemory* states) {
    for (int64_t i = 0; i * kSize < columns; ++i) {
      std::array<StateOf<Op, T>, V::size()> lanes;
      to_scalars<V>(static_cast<const StateOf<Op, V>*>(sums)[i], lanes.data());
      for (int64_t lane = 0; lane < std::min(kSize, columns - i * kSize); ++lane) {
        put(states[i * kSize + lane], lanes[lane]);
      }
    }
  }
};

}  // namespace detail
}  // namespace torchnotes
