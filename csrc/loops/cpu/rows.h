// The traversals of rows: reduce_rows makes the first pass over each row, map_rows the second, transform_rows both
// while the row is in cache. row_shape.h defines rows and operations. The output of a second pass may alias an input.
#pragma once

#include <c10/core/Device.h>

#include <array>

#include "loops/cpu/both_passes.h"
#include "loops/cpu/interleaved_rows.h"
#include "loops/cpu/short_rows.h"

namespace torchnotes {

namespace detail {

// What a traversal needs of an operation.
enum class Passes { kFirst, kSecond, kBoth, kAtOnce };
enum class Layout { kRows, kSegments, kColumns };

template <class T, class Op, int inputs, Passes passes, Layout layout>
constexpr RowFunctions<T> functions() {
  using Indices = std::make_index_sequence<inputs>;
  RowFunctions<T> f{};
  f.widened = Widened<Op>;
  if constexpr (passes != Passes::kSecond) {
    using First = typename FirstPassOf<Op>::type;
    using F = FirstPass<T, First, Indices>;
    f.prescans = Prescans<First>;
    if constexpr (layout == Layout::kSegments) {
      f.merge = F::merge;
      f.finish = F::finish;
      f.start_segments = F::start_segments;
      if constexpr (passes != Passes::kAtOnce) {
        f.add_segments = F::add_segments;
      }
      f.merge_segments = F::merge_segments;
    } else if constexpr (layout == Layout::kColumns) {
      f.state_bytes = sizeof(StateOf<First, typename F::V>);
      f.constants_bytes = sizeof(typename F::Constants);
      f.column_constants = F::column_constants;
      f.start_columns = F::start_columns;
      if constexpr (passes != Passes::kAtOnce) {
        f.add_columns = F::add_columns;
      }
      f.merge_columns = F::merge_columns;
      f.fold_columns = F::fold_columns;
      f.finish_columns = F::finish_columns;
    } else {
      f.merge = F::merge;
      f.finish = F::finish;
      f.reduce = F::reduce;
      f.reduce_lanes = F::reduce_lanes;
    }
  }
  if constexpr (passes == Passes::kAtOnce) {
    using Second = SecondPass<T, Op, Indices>;
    f.formula_bytes = sizeof(typename Second::Vectors);
    if constexpr (layout == Layout::kSegments) {
      f.formula = Second::formula;
      f.add_and_map_segments = BothPasses<T, Op, Indices>::add_and_map_segments;
    } else {
      f.column_formulas = Second::column_formulas;
      f.add_and_map_columns = BothPasses<T, Op, Indices>::add_and_map_columns;
    }
  } else if constexpr (passes != Passes::kFirst) {
    using F = SecondPass<T, Op, Indices>;
    f.pack = F::pack;
    if constexpr (requires(const Op& op) { op.formula(0); }) {
      f.formula = F::formula;
    }
    f.formula_bytes = sizeof(typename F::Vectors);
    if constexpr (layout == Layout::kSegments) {
      f.map_segments = F::map_segments;
    } else if constexpr (layout == Layout::kColumns) {
      if constexpr (requires(const Op& op) { op.formula(0); }) {
        f.column_formulas = F::column_formulas;
      }
      f.map_columns = F::map_columns;
    } else {
      f.map = F::map;
      f.map_lanes = F::map_lanes;
      if constexpr (PatchesTarget<Op>) {
        f.patch = F::patch;
      }
    }
  }
  if constexpr (TakesShortRows<Op> && layout == Layout::kRows) {
    constexpr bool kReduces = passes != Passes::kSecond, kMaps = passes != Passes::kFirst;
    f.short_rows = ShortRowsPass<T, Op, kReduces, kMaps, Indices>::apply;
    f.interleaved_rows = InterleavedRowsPass<T, Op, kReduces, kMaps, Indices>::apply;
    if constexpr (!kReduces) {
      f.formula_lanes = SecondPass<T, Op, Indices>::formula_lanes;
    }
    if constexpr (PatchesTarget<Op>) {
      f.patch_lanes = SecondPass<T, Op, Indices>::patch_lanes;
    }
  }
  return f;
}

}  // namespace detail

template <class T, class Op, int inputs, detail::Passes passes, detail::Layout layout>
inline constexpr RowFunctions<T> kFunctions = detail::functions<T, Op, inputs, passes, layout>();

// One traversal: of an operation, its inputs and, for a second pass, an output.
template <class T>
struct RowPass {
  RowShape shape;
  const RowFunctions<T>& functions;
  const void* op;
  std::array<RowOperand, kMaxInputs> in;
  int inputs;
  RowOperand out{};
};

void reduce_rows(const RowPass<float>& pass);
void reduce_rows(const RowPass<double>& pass);
void map_rows(const RowPass<float>& pass);
void map_rows(const RowPass<double>& pass);
void transform_rows(const RowPass<float>& pass);
void transform_rows(const RowPass<double>& pass);

template <class T, class Op, class... In>
void reduce_rows(c10::Device, const RowShape& shape, const Op& op, const In&... in) {
  constexpr int n = sizeof...(In);
  reduce_rows(RowPass<T>{shape, kFunctions<T, Op, n, detail::Passes::kFirst, detail::Layout::kRows>, &op, {in...}, n});
}

template <class T, class Op, class... In>
void map_rows(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  map_rows(
      RowPass<T>{shape, kFunctions<T, Op, n, detail::Passes::kSecond, detail::Layout::kRows>, &op, {in...}, n, out}
  );
}

template <class T, class Op, class... In>
void transform_rows(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  transform_rows(
      RowPass<T>{shape, kFunctions<T, Op, n, detail::Passes::kBoth, detail::Layout::kRows>, &op, {in...}, n, out}
  );
}

}  // namespace torchnotes
