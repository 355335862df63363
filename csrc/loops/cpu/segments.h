// The traversals of rows that take turns segment by segment, such as the channels of contiguous images: R rows of S
// segments in the order (segment, row, element). All operands have one element type, and none is empty.
#pragma once

#include <c10/core/Device.h>

#include "loops/cpu/rows.h"

namespace torchnotes {

void reduce_segments(const RowPass<float>& pass);
void reduce_segments(const RowPass<double>& pass);
void map_segments(const RowPass<float>& pass);
void map_segments(const RowPass<double>& pass);
void transform_segments(const RowPass<float>& pass);
void transform_segments(const RowPass<double>& pass);
// Both passes at once, for an operation whose formula(row) is what finish(row, ...) returns.
void reduce_and_map_segments(const RowPass<float>& pass);
void reduce_and_map_segments(const RowPass<double>& pass);

template <class T, class Op, class... In>
void reduce_segments(c10::Device, const RowShape& shape, const Op& op, const In&... in) {
  constexpr int n = sizeof...(In);
  constexpr auto& functions = kFunctions<T, Op, n, detail::Passes::kFirst, detail::Layout::kSegments>;
  reduce_segments(RowPass<T>{shape, functions, &op, {in...}, n});
}

template <class T, class Op, class... In>
void map_segments(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  constexpr auto& functions = kFunctions<T, Op, n, detail::Passes::kSecond, detail::Layout::kSegments>;
  map_segments(RowPass<T>{shape, functions, &op, {in...}, n, out});
}

template <class T, class Op, class... In>
void transform_segments(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  constexpr auto& functions = kFunctions<T, Op, n, detail::Passes::kBoth, detail::Layout::kSegments>;
  transform_segments(RowPass<T>{shape, functions, &op, {in...}, n, out});
}

template <class T, class Op, class... In>
void reduce_and_map_segments(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  constexpr auto& functions = kFunctions<T, Op, n, detail::Passes::kAtOnce, detail::Layout::kSegments>;
  reduce_and_map_segments(RowPass<T>{shape, functions, &op, {in...}, n, out});
}

}  // namespace torchnotes
