// What the traversals of rows.h and columns.h call to process a run of vectors. These functions are all that is
// compiled for each operation: the traversals themselves are compiled once per library.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>

#include "loops/cpu/load.h"
#include "loops/cpu/vectors.h"
#include "loops/row_shape.h"

namespace torchnotes {

constexpr int kMaxInputs = 4;

// Where the inputs of a pass are: of one type, or widened in a buffer.
template <class T>
struct Inputs {
  struct Input {
    const void* data;
    int64_t stride;  // in elements
  };
  std::array<Input, kMaxInputs> in;
  c10::ScalarType type = kTypeOf<T>;  // T, or a type of 16 bits
};

// n vectors of each input, `stride` elements from one to the next, and a vector of `tail` elements after them.
template <class T>
struct Run : Inputs<T> {
  int64_t n, tail = 0;
  int64_t ahead = 0;  // how many elements ahead to prefetch
};

// `length` elements of neighboring columns, `stride` elements from one to the next.
template <class T>
struct Panel : Inputs<T> {
  int64_t columns, length;
};

// Memory for a State or a Formula of one row, for a Formula of vectors, and for the states that a row is added up in.
struct alignas(16) StateMemory {
  std::byte bytes[64];
};
struct alignas(64) VectorMemory {
  std::byte bytes[512];
};
struct alignas(64) AccumulatorMemory {
  std::byte bytes[2560];
};

// Where a run is in a row, and whether to call finish() after the last.
struct Step {
  bool first, last, finishes;
};

template <class T>
struct RowFunctions {
  int64_t most;  // how many elements of a row `reduce` may get at a time

  // The first pass over a row, run by run. The last run gives a State or, if it `finishes`, a Formula, also of vectors.
  void (*reduce)(
      const void* op,
      int64_t row,
      const Run<T>& run,
      Step step,
      AccumulatorMemory& sums,
      StateMemory& result,
      VectorMemory& packed
  );
  void (*merge)(StateMemory& state, const StateMemory& other);
  void (*finish)(const void* op, int64_t row, const StateMemory& state, StateMemory& formula);

  // The first pass over n rows from `row` on, one per lane. The last run finishes all of them.
  void (*reduce_lanes)(
      const void* op,
      int64_t row,
      int64_t n,
      const Run<T>& run,
      Step step,
      AccumulatorMemory& sums,
      StateMemory* formulas,
      VectorMemory& packed
  );

  // The first pass over columns. `sums` holds a State of vectors for each vector of columns, `constants` likewise.
  size_t state_bytes, constants_bytes;  // of vectors
  void (*start_columns)(const void* op, int64_t columns, void* sums, void* constants);
  void (*add_columns)(const void* op, const Panel<T>& panel, void* sums, const void* constants);
  void (*total_columns)(int64_t columns, const void* sums, StateMemory* states);

  // The second pass.
  size_t formula_bytes;                                                           // of vectors
  void (*formula)(const void* op, int64_t row, StateMemory& formula);             // null if `finish` returns it
  void (*pack)(const StateMemory* formulas, bool same, void* packed, int64_t i);  // as the i-th of an array
  void (*map)(const void* op, const void* formula, const Run<T>& run, void* out, int64_t stride);
  void (*map_columns)(const void* op, const void* formulas, const Panel<T>& panel, void* out, int64_t stride);
  void (*patch)(const void* op, int64_t row, const StateMemory& formula);  // or null
};

// Inlines all calls, so that states live in registers. Not under the sanitizers, whose checks would make it compile for
// minutes.
#ifdef __SANITIZE_ADDRESS__
#define TORCHNOTES_FLATTEN
#else
#define TORCHNOTES_FLATTEN [[gnu::flatten]]
#endif

namespace detail {

constexpr int kChains = 4;             // States that take turns, so that an addition need not wait for the one before
constexpr int64_t kWorthMerging = 8;   // vectors
constexpr int64_t kPartial = 32;       // vectors that are added to a lighter state
constexpr int64_t kPrescanned = 4096;  // elements; small enough to stay in L1
constexpr int64_t kWhole = 32768;
constexpr int kTogether = 4;  // vectors of columns

template <class Struct, class Memory>
inline Struct& as(Memory& memory) {
  static_assert(sizeof(Struct) <= sizeof(Memory) && alignof(Struct) <= alignof(Memory));
  return *std::launder(reinterpret_cast<Struct*>(memory.bytes));
}
template <class Struct, class Memory>
inline const Struct& as(const Memory& memory) {
  static_assert(sizeof(Struct) <= sizeof(Memory) && alignof(Struct) <= alignof(Memory));
  return *std::launder(reinterpret_cast<const Struct*>(memory.bytes));
}
template <class Memory, class Struct>
inline void put(Memory& memory, const Struct& x) {
  static_assert(sizeof(Struct) <= sizeof(Memory) && alignof(Struct) <= alignof(Memory));
  new (memory.bytes) Struct(x);
}

template <class Op>
concept Reduces = requires(const Op& op) { op.template start<float>(0); };
template <class Op>
concept Prescans = requires(const Op& op) { op.template prescan<float>(); };
template <class Op>
concept HasPartial = requires(const Op& op) { op.template partial<float>(); };

template <class T, class Op, class Indices>
struct Functions;

template <class T, class Op, size_t... I>
struct Functions<T, Op, std::index_sequence<I...>> {
  using V = Vectorized<T>;
  static constexpr int64_t kSize = V::size();
  template <class Struct>
  using Chains = std::array<Struct, kChains>;

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

  static auto formula_type() {
    if constexpr (Reduces<Op>) {
      return std::type_identity<decltype(std::declval<const Op&>().finish(0, std::declval<StateOf<Op, T>>()))>();
    } else {
      return std::type_identity<decltype(std::declval<const Op&>().formula(0))>();
    }
  }
  using Formula = typename decltype(formula_type())::type;
  static constexpr bool kMaps = !std::is_void_v<Formula>;
  using Vectors = decltype(broadcast<V>(std::declval<std::conditional_t<kMaps, Formula, std::type_identity<T>>>()));

  // ---- the first pass ----

  template <class State>
  struct Sums {
    Chains<State> states;
    Constants constants;
    bool chained;  // whether all states are in use, or only the first
  };

  // Adds n vectors to states[0], or in turns to all of them.
  template <bool fetches, class Load, class F, class State>
  static void add_vectors(
      const Load load, const F& add, Chains<State>& states, bool& chained, const Run<T>& run, int64_t begin, int64_t end
  ) {
    using Element = typename Load::Element;
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
    if constexpr (HasPartial<Op> && Load::kNarrow) {
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
    add_tail(load, add, sums.states[0], run);
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

  // ---- the first pass over columns ----

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

  static void add_columns(const void* op, const Panel<T>& panel, void* sums_, const void* constants_) {
    auto* sums = static_cast<StateOf<Op, V>*>(sums_);
    const auto* constants = static_cast<const Constants*>(constants_);
    constexpr int64_t kWidth = kTogether * kSize;
    const int64_t next_panel = panel.length * panel.in[0].stride;
    with_load<T>(panel.type, [&](const auto load) {
      int64_t i = 0;
      for (; i + kWidth <= panel.columns; i += kWidth) {
        const int64_t ahead = i + 2 * kWidth <= panel.columns ? kWidth : next_panel - i;
        add_together<kTogether>(load, of(op), panel, i, kSize, ahead, sums + i / kSize, constants + i / kSize);
      }
      for (; i < panel.columns; i += kSize) {
        const int64_t lanes = std::min(kSize, panel.columns - i);
        add_together<1>(load, of(op), panel, i, lanes, next_panel, sums + i / kSize, constants + i / kSize);
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

  // ---- the second pass ----

  static void formula(const void* op, int64_t row, StateMemory& result) { put(result, of(op).formula(row)); }

  static void pack(const StateMemory* formulas, bool same, void* all, int64_t i) {
    auto* const to = static_cast<Vectors*>(all) + i;
    static_assert(sizeof(Vectors) <= sizeof(VectorMemory));
    if (same) {
      new (to) Vectors(broadcast<V>(as<Formula>(formulas[0])));
    } else {
      std::array<Formula, V::size()> lanes;
      for (int64_t lane = 0; lane < kSize; ++lane) {
        lanes[lane] = as<Formula>(formulas[lane]);
      }
      new (to) Vectors(packed<V>(lanes));
    }
  }

  TORCHNOTES_FLATTEN static void map(
      const void* op_, const void* formula, const Run<T>& run, void* out, int64_t stride
  ) {
    const Op& op = of(op_);
    const Vectors f = *static_cast<const Vectors*>(formula);
    with_load<T>(run.type, [&](const auto load) {
      using Element = typename decltype(load)::Element;
      const int64_t n = run.n;  // in registers: a store may alias the run
      const std::array<int64_t, sizeof...(I)> strides{run.in[I].stride...};
      std::array<const Element*, sizeof...(I)> x{static_cast<const Element*>(run.in[I].data)...};
      auto* y = static_cast<Element*>(out);
      int64_t j = 0;
      if constexpr (load.kNarrow) {
        for (; j + 2 <= n && stride == kSize; j += 2) {
          const V a = op.value(f, load(x[I])...), b = op.value(f, load(x[I] + strides[I])...);
          load.store(y, a, b);
          ((x[I] += 2 * strides[I]), ...);
          y += 2 * stride;
        }
      }
      for (; j < n; ++j) {
        load.store(y, op.value(f, load(x[I])...));
        ((x[I] += strides[I]), ...);
        y += stride;
      }
      if (run.tail > 0) {
        load.store(y, op.value(f, load(x[I], run.tail)...), run.tail);
      }
    });
  }

  TORCHNOTES_FLATTEN static void map_columns(
      const void* op_, const void* all, const Panel<T>& panel_, void* out, int64_t stride
  ) {
    const Op& op = of(op_);
    const auto* const formulas = static_cast<const Vectors*>(all);
    with_load<T>(panel_.type, [&](const auto load) {
      using Element = typename decltype(load)::Element;
      const Panel<T> panel = panel_;  // in registers: a store may alias it
      for (int64_t j = 0; j < panel.length; ++j) {
        std::array<const Element*, sizeof...(I)> x{
            static_cast<const Element*>(panel.in[I].data) + j * panel.in[I].stride...
        };
        Element* const y = static_cast<Element*>(out) + j * stride;
        int64_t i = 0;
        if constexpr (load.kNarrow) {
          for (; i + 2 * kSize <= panel.columns; i += 2 * kSize) {
            const V a = op.value(formulas[i / kSize], load(x[I] + i)...);
            load.store(y + i, a, op.value(formulas[i / kSize + 1], load(x[I] + i + kSize)...));
          }
        }
        for (; i + kSize <= panel.columns; i += kSize) {
          load.store(y + i, op.value(formulas[i / kSize], load(x[I] + i)...));
        }
        if (i < panel.columns) {
          const int64_t lanes = panel.columns - i;
          load.store(y + i, op.value(formulas[i / kSize], load(x[I] + i, lanes)...), lanes);
        }
      }
    });
  }

  static void patch(const void* op, int64_t row, const StateMemory& formula) {
    of(op).patch_target(row, as<Formula>(formula));
  }
};

// What a pass over rows or over columns needs of an operation.
enum class Passes { kFirst, kSecond, kBoth };

template <class T, class Op, int inputs, Passes passes, bool columns>
constexpr RowFunctions<T> functions() {
  using F = Functions<T, Op, std::make_index_sequence<inputs>>;
  RowFunctions<T> f{};
  if constexpr (passes != Passes::kSecond) {
    f.most = Prescans<Op> ? kPrescanned : kWhole;
    f.merge = F::merge;
    f.finish = F::finish;
    if constexpr (columns) {
      f.state_bytes = sizeof(StateOf<Op, typename F::V>);
      f.constants_bytes = sizeof(typename F::Constants);
      f.start_columns = F::start_columns;
      f.add_columns = F::add_columns;
      f.total_columns = F::total_columns;
    } else {
      f.reduce = F::reduce;
      f.reduce_lanes = F::reduce_lanes;
    }
  }
  if constexpr (passes != Passes::kFirst) {
    f.pack = F::pack;
    if constexpr (!Reduces<Op>) {
      f.formula = F::formula;
    }
    if constexpr (columns) {
      f.formula_bytes = sizeof(typename F::Vectors);
      f.map_columns = F::map_columns;
    } else {
      f.map = F::map;
      if constexpr (requires(const Op& op, const typename F::Formula& formula) { op.patch_target(0, formula); }) {
        f.patch = F::patch;
      }
    }
  }
  return f;
}

}  // namespace detail

template <class T, class Op, int inputs, detail::Passes passes, bool columns>
inline constexpr RowFunctions<T> kFunctions = detail::functions<T, Op, inputs, passes, columns>();

}  // namespace torchnotes
