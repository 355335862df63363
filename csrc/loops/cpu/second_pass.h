// The inner loops of a second pass over rows, for one operation.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "loops/cpu/memory.h"
#include "loops/cpu/vectors.h"

namespace torchnotes {
namespace detail {

template <class T, class Op, class Indices>
struct SecondPass;

template <class T, class Op, size_t... I>
struct SecondPass<T, Op, std::index_sequence<I...>> {
  using V = Vectorized<T>;
  static constexpr int64_t kSize = V::size();
  using Formula = FormulaOf<Op, T>;
  using Vectors = decltype(broadcast<V>(std::declval<Formula>()));

  static const Op& of(const void* op) { return *static_cast<const Op*>(op); }

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
      if constexpr (Stages<Op>) {
        map_staged(op, f, load, run, out, stride);
      } else {
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
      }
    });
  }

  TORCHNOTES_FLATTEN static void map_columns(
      const void* op_, const void* all, const Panel<T>& panel_, void* out, int64_t stride
  ) {
    const Op& op = of(op_);
    const auto* const formulas = static_cast<const Vectors*>(all);
    with_load<T>(panel_.type, [&](const auto load) {
      if constexpr (Stages<Op>) {
        map_staged_columns(op, formulas, load, panel_, out, stride);
      } else {
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
      }
    });
  }

  template <class Load>
  static void map_staged(
      const Op& op, const Vectors& f, const Load load, const Run<T>& run, void* out, int64_t stride
  ) {
    using Element = typename Load::Element;
    const auto at = [&](size_t k, int64_t j) {
      return static_cast<const Element*>(run.in[k].data) + j * run.in[k].stride;
    };
    const auto formula = [&](int64_t) { return f; };
    const auto value = [&](const auto&... x) { return op.staged_value(f, x...); };
    auto* y = static_cast<Element*>(out);
    for (int64_t begin = 0; begin < run.n; begin += kStaged) {
      const int64_t n = std::min(kStaged, run.n - begin);
      const StagedInputs<T, Op, sizeof...(I)> inputs(
          op, n, [&](size_t k, int64_t j) { return load(at(k, begin + j)); }, formula
      );
      for (int64_t j = 0; j < n; ++j) {
        load.store(y + (begin + j) * stride, inputs.apply(j, value));
      }
    }
    if (run.tail > 0) {
      const StagedInputs<T, Op, sizeof...(I)> inputs(
          op, 1, [&](size_t k, int64_t) { return load(at(k, run.n), run.tail); }, formula
      );
      load.store(y + run.n * stride, inputs.apply(0, value), run.tail);
    }
  }

  template <class Load>
  static void map_staged_columns(
      const Op& op, const Vectors* formulas, const Load load, const Panel<T>& panel, void* out, int64_t stride
  ) {
    using Element = typename Load::Element;
    for (int64_t row = 0; row < panel.length; ++row) {
      auto* const y = static_cast<Element*>(out) + row * stride;
      for (int64_t first = 0; first < panel.columns; first += kStaged * kSize) {
        const int64_t columns = std::min(kStaged * kSize, panel.columns - first);
        const auto lanes = [&](int64_t j) { return std::min(kSize, columns - j * kSize); };
        const auto load_one = [&](size_t k, int64_t j) {
          const auto* const x =
              static_cast<const Element*>(panel.in[k].data) + row * panel.in[k].stride + first + j * kSize;
          return lanes(j) == kSize ? load(x) : load(x, lanes(j));
        };
        const auto formula = [&](int64_t j) -> const Vectors& { return formulas[first / kSize + j]; };
        const int64_t n = (columns + kSize - 1) / kSize;
        const StagedInputs<T, Op, sizeof...(I)> inputs(op, n, load_one, formula);
        for (int64_t j = 0; j < n; ++j) {
          const V value = inputs.apply(j, [&](const auto&... x) { return op.staged_value(formula(j), x...); });
          lanes(j) == kSize ? load.store(y + first + j * kSize, value)
                            : load.store(y + first + j * kSize, value, lanes(j));
        }
      }
    }
  }

  static void patch(const void* op, int64_t row, const StateMemory& formula) {
    of(op).patch_target(row, as<Formula>(formula));
  }
};

}  // namespace detail
}  // namespace torchnotes
