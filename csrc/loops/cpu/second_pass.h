// The inner loops of a second pass over rows, for one operation.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "loops/cpu/fetch.h"
#include "loops/cpu/memory.h"
#include "loops/cpu/staged.h"
#include "loops/cpu/vectors.h"

namespace torchnotes {
namespace detail {

constexpr int64_t kInL1 = 12288;  // bytes of formulas that stay in L1 from one row to the next

template <class T, class Op, class Indices>
struct SecondPass;

template <class T, class Op, size_t... I>
struct SecondPass<T, Op, std::index_sequence<I...>> {
  using V = Vectorized<T>;
  static constexpr int64_t kSize = V::size();
  using Formula = FormulaOf<Op, T>;
  using Vectors = decltype(broadcast<V>(std::declval<Formula>()));

  static const Op& of(const void* op) { return *static_cast<const Op*>(op); }

  static void formula(const void* op_, int64_t row, int64_t n, StateMemory* formulas) {
    const Op& op = of(op_);
    for (int64_t i = 0; i < n; ++i) {
      put(formulas[i], op.formula(row + i));
    }
  }

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

  template <class Load>
  using Pointers = std::array<const typename Load::Element*, sizeof...(I)>;
  using Strides = std::array<int64_t, sizeof...(I)>;

  template <class Load>
  static Pointers<Load> pointers(const Load, const Inputs<T>& inputs, int64_t i) {
    return {static_cast<const typename Load::Element*>(inputs.in[I].data) + i * inputs.in[I].stride...};
  }

  // Writes n contiguous elements. formula(i) is that of vector i.
  template <class FormulaAt, class Load>
  static void map_contiguous(
      const Op& op,
      const FormulaAt& formula,
      const Load load,
      const Pointers<Load>& x,
      int64_t n,
      typename Load::Element* y,
      bool streamed
  ) {
    if constexpr (Stages<Op>) {
      map_staged(op, formula, load, x, n, y);
    } else {
      int64_t i = 0;
      if constexpr (Load::kNarrow) {
        for (; i + 2 * kSize <= n; i += 2 * kSize) {
          const V value = op.value(formula(i / kSize), load(x[I] + i)...);
          const V next = op.value(formula(i / kSize + 1), load(x[I] + i + kSize)...);
          load.store_pair(y + i, value, next, streamed);
        }
      }
      for (; i + kSize <= n; i += kSize) {
        load.store(y + i, op.value(formula(i / kSize), load(x[I] + i)...), streamed);
      }
      if (i < n) {
        load.store_some(y + i, op.value(formula(i / kSize), load(x[I] + i, n - i)...), n - i);
      }
    }
  }

  // The same in stages.
  template <class FormulaAt, class Load>
  static void map_staged(
      const Op& op,
      const FormulaAt& formula,
      const Load load,
      const Pointers<Load>& x,
      int64_t n,
      typename Load::Element* y
  ) {
    constexpr int64_t kMost = kStageVectors * kSize;
    for (int64_t first = 0; first < n; first += kMost) {
      const int64_t some = std::min(kMost, n - first), whole = some / kSize * kSize,
                    vectors = (some + kSize - 1) / kSize;
      const auto load_one = [&](size_t k, int64_t j) {
        const auto* const from = x[k] + first + j * kSize;
        return j * kSize < whole ? load(from) : load(from, some - whole);
      };
      const auto of_vector = [&](int64_t j) -> decltype(auto) { return formula(first / kSize + j); };
      const StagedInputs<T, Op, sizeof...(I)> inputs(op, vectors, load_one, of_vector);
      for (int64_t j = 0; j < vectors; ++j) {
        const V value =
            inputs.apply(j, [&](const auto&... values) { return op.staged_value(of_vector(j), values...); });
        auto* const to = y + first + j * kSize;
        j* kSize < whole ? load.store(to, value) : load.store_some(to, value, some - whole);
      }
    }
  }

  TORCHNOTES_FLATTEN static void map(const void* op_, const void* formula, const Run<T>& run_, const Output& out_) {
    const Op op = of(op_);  // in registers, like the others: a store may alias them
    const Vectors f = *static_cast<const Vectors*>(formula);
    const Run<T> run = run_;
    const Output out = out_;
    const int64_t n = run.n * kSize + run.tail;
    const auto map_all = [&](const auto load) {
      auto* const y = static_cast<typename decltype(load)::Element*>(out.data);
      map_contiguous(
          op, [&](int64_t) -> const Vectors& { return f; }, load, pointers(load, run, 0), n, y, out.streamed
      );
    };
    if constexpr (Stages<Op>) {
      with_load<T>(run.type, map_all);
    } else {
      with_load_of_rows<T, Op>(run.type, [&](const auto load) { with_narrow_type(load, map_all); });
    }
  }

  // The last vector is written as a whole one that overlaps the one before, and loaded first, because `y` may be an
  // input.
  template <class Load>
  static void map_segment(
      const Op& op,
      const Vectors& f,
      const Load load,
      const Pointers<Load>& x,
      int64_t n,
      typename Load::Element* y,
      bool streamed
  ) {
    const auto formula = [&](int64_t) -> const Vectors& { return f; };
    if constexpr (!Stages<Op>) {
      if (n % kSize > 0 && n > kSize) {
        const V last = op.value(f, load(x[I] + n - kSize)...);
        map_contiguous(op, formula, load, x, n / kSize * kSize, y, streamed);
        load.store(y + n - kSize, last);
        return;
      }
    }
    map_contiguous(op, formula, load, x, n, y, streamed);
  }

  // A segment of each of run.segments neighboring rows.
  TORCHNOTES_FLATTEN static void map_segments(
      const void* op_, const StateMemory* formulas, const Run<T>& run_, const Output& out_
  ) {
    const Op op = of(op_);
    const Run<T> run = run_;
    const Output out = out_;
    with_load<T>(run.type, [&](const auto any) {
      with_narrow_type(any, [&](const auto load) {
        auto* y = static_cast<typename decltype(load)::Element*>(out.data);
        for (int64_t i = 0; i < run.segments; ++i) {
          const Vectors f = broadcast<V>(as<Formula>(formulas[i]));
          map_segment(op, f, load, pointers(load, run, i), run.n * kSize + run.tail, y, out.streamed);
          y += out.stride;
        }
      });
    });
  }

  TORCHNOTES_FLATTEN static void map_lanes(
      const void* op_, const void* formula, const LaneRun<T>& run, const Output& out
  ) {
    const Op& op = of(op_);
    const Vectors f = *static_cast<const Vectors*>(formula);
    with_load_of_rows<T, Op>(run.type, [&](const auto load) {
      const int64_t n = run.n, jump = out.stride;  // in registers: a store may alias them
      const Strides stride{run.in[I].stride...};
      auto x = pointers(load, run, 0);
      auto* y = static_cast<typename decltype(load)::Element*>(out.data);
      for (int64_t j = 0; j < n; ++j) {
        map_contiguous(op, [&](int64_t) -> const Vectors& { return f; }, load, x, kSize, y, false);
        ((x[I] += stride[I]), ...);
        y += jump;
      }
    });
  }

  static void column_formulas(const void* op, int64_t begin, int64_t end, const ColumnMembers<T>& formulas) {
    set_columns<V>(formulas, begin, end, [&](int64_t column, int64_t n) -> Vectors {
      if constexpr (InLanes<Op>) {
        return of(op).template formula_lanes<V>(column, n);
      } else {
        return vectors_from<Vectors, V>([&](int64_t lane) { return of(op).formula(column + std::min(lane, n - 1)); });
      }
    });
  }

  static Vectors formula_at(const ColumnMembers<T>& formulas, int64_t column) {
    return vectors_at<Vectors>(formulas.members + column, formulas.stride);
  }

  // Prefetches as much of contiguous rows as n vectors have, while n rows are written side by side at column i. Rows of
  // 16-bit numbers gain nothing.
  template <int n, class Element>
  C10_ALWAYS_INLINE static void fetch_output(const Panel<T>& panel, const Output& out, const Element* y, int64_t i) {
    if (sizeof(Element) == sizeof(T) && panel.contiguous && !out.streamed) {
      fetch<n * kSize * sizeof(Element), kIntoL2, /*writes=*/true>(y + i * n);
    }
  }

  // Maps `rows` rows of a panel, from row j on, that share the formulas in registers.
  template <int rows, class Load>
  static void map_together(
      const Op& op,
      const ColumnMembers<T>& formulas,
      const Load load,
      const Panel<T>& panel,
      int64_t j,
      const Output& out
  ) {
    const int64_t n = panel.columns;
    const Strides stride{panel.in[I].stride...};
    const auto x = pointers(load, panel, j);
    auto* const y = static_cast<typename Load::Element*>(out.data) + j * out.stride;
    int64_t i = 0;
    if constexpr (Load::kNarrow) {
      for (; i + 2 * kSize <= n; i += 2 * kSize) {
        const Vectors f = formula_at(formulas, i), next = formula_at(formulas, i + kSize);
        unrolled<rows>([&](auto k) {
          const V value = op.value(f, load(x[I] + k * stride[I] + i)...);
          const V after = op.value(next, load(x[I] + k * stride[I] + i + kSize)...);
          load.store_pair(y + k * out.stride + i, value, after, out.streamed);
        });
      }
    }
    for (; i + kSize <= n; i += kSize) {
      fetch_output<rows>(panel, out, y, i);
      const Vectors f = formula_at(formulas, i);
      unrolled<rows>([&](auto k) {
        load.store(y + k * out.stride + i, op.value(f, load(x[I] + k * stride[I] + i)...), out.streamed);
      });
    }
    if (i < n) {
      const Vectors f = formula_at(formulas, i);
      unrolled<rows>([&](auto k) {
        load.store_some(y + k * out.stride + i, op.value(f, load(x[I] + k * stride[I] + i, n - i)...), n - i);
      });
    }
  }

  TORCHNOTES_FLATTEN static void map_columns(
      const void* op_, const ColumnMembers<T>& formulas_, const Panel<T>& panel_, const Output& out_
  ) {
    const Op op = of(op_);
    const ColumnMembers<T> formulas = formulas_;
    const Panel<T> panel = panel_;  // in registers: a store may alias them
    const Output out = out_;
    with_load<T>(panel.type, [&](const auto load) {
      int64_t j = 0;
      if constexpr (Stages<Op>) {
        for (; j < panel.length; ++j) {
          auto* const y = static_cast<typename decltype(load)::Element*>(out.data) + j * out.stride;
          const auto formula = [&](int64_t i) { return formula_at(formulas, i * kSize); };
          map_staged(op, formula, load, pointers(load, panel, j), panel.columns, y);
        }
      } else {
        const bool in_l1 = panel.columns * sizeof(Vectors) / kSize <= kInL1;
        for (; !in_l1 && j + kRowsTogether <= panel.length; j += kRowsTogether) {
          map_together<kRowsTogether>(op, formulas, load, panel, j, out);
        }
        for (; j < panel.length; ++j) {
          map_together<1>(op, formulas, load, panel, j, out);
        }
      }
    });
  }

  static void patch(const void* op_, int64_t row, int64_t n, const StateMemory* formulas) {
    const Op& op = of(op_);
    for (int64_t i = 0; i < n; ++i) {
      op.patch_target(row + i, as<Formula>(formulas[i]));
    }
  }

  static void formula_lanes(const void* op, int64_t row, int64_t n, void* packed) {
    new (packed) Vectors(of(op).template formula_lanes<V>(row, n));
  }
  static void patch_lanes(const void* op, int64_t row, int64_t n, const void* packed) {
    of(op).patch_lanes(row, n, *static_cast<const Vectors*>(packed));
  }
};

}  // namespace detail
}  // namespace torchnotes
