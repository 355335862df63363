// The traversals of rows for the columns of a matrix: rows that are all interleaved, {C, 1, R, C} in the terms of
// row_shape.h, and as long as the batch is large. Examples are the channels of (N, C) or of channels-last images.
#pragma once

#include <c10/core/Device.h>

#include "loops/cpu/rows.h"

namespace torchnotes {

void reduce_columns(const RowPass<float>& pass);
void reduce_columns(const RowPass<double>& pass);
void map_columns(const RowPass<float>& pass);
void map_columns(const RowPass<double>& pass);
void transform_columns(const RowPass<float>& pass);
void transform_columns(const RowPass<double>& pass);
// Both passes at once, for an operation whose formula(row) is what finish(row, ...) returns.
void reduce_and_map_columns(const RowPass<float>& pass);
void reduce_and_map_columns(const RowPass<double>& pass);

// Writes op.map_tile(n, in..., out) and reduces what was written in the same pass.
template <class T>
struct TileMap {
  void (*function)(const void* op, int64_t n, const T* a, const T* b, T* out);
  const void* op;
};
void map_and_reduce_columns(const RowPass<float>& pass, const TileMap<float>& map);
void map_and_reduce_columns(const RowPass<double>& pass, const TileMap<double>& map);

template <class T, class Op, class... In>
void reduce_columns(c10::Device, const RowShape& shape, const Op& op, const In&... in) {
  constexpr int n = sizeof...(In);
  reduce_columns(
      RowPass<T>{shape, kFunctions<T, Op, n, detail::Passes::kFirst, detail::Layout::kColumns>, &op, {in...}, n}
  );
}

template <class T, class Op, class... In>
void map_columns(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  map_columns(
      RowPass<T>{shape, kFunctions<T, Op, n, detail::Passes::kSecond, detail::Layout::kColumns>, &op, {in...}, n, out}
  );
}

template <class T, class Op, class... In>
void transform_columns(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  transform_columns(
      RowPass<T>{shape, kFunctions<T, Op, n, detail::Passes::kBoth, detail::Layout::kColumns>, &op, {in...}, n, out}
  );
}

template <class T, class Op, class... In>
void reduce_and_map_columns(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  constexpr auto& functions = kFunctions<T, Op, n, detail::Passes::kAtOnce, detail::Layout::kColumns>;
  reduce_and_map_columns(RowPass<T>{shape, functions, &op, {in...}, n, out});
}

template <class T, class Op>
void map_and_reduce_columns(
    c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const RowOperand& a, const RowOperand& b
) {
  const auto map_tile = [](const void* of, int64_t n, const T* x, const T* y, T* to) {
    static_cast<const Op*>(of)->map_tile(n, x, y, to);
  };
  map_and_reduce_columns(
      RowPass<T>{shape, kFunctions<T, Op, 1, detail::Passes::kFirst, detail::Layout::kColumns>, &op, {a, b}, 2, out},
      {map_tile, &op}
  );
}

}  // namespace torchnotes
