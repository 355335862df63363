// The traversals of rows: reduce_rows makes the first pass over each row, map_rows the second, transform_rows both
// while the row is in cache. row_shape.h defines rows and operations. The output of a second pass may alias an input.
#pragma once

#include <c10/core/Device.h>

#include <array>

#include "loops/cpu/row_functions.h"

namespace torchnotes {

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
  reduce_rows(RowPass<T>{shape, kFunctions<T, Op, n, detail::Passes::kFirst, false>, &op, {in...}, n});
}

template <class T, class Op, class... In>
void map_rows(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  map_rows(RowPass<T>{shape, kFunctions<T, Op, n, detail::Passes::kSecond, false>, &op, {in...}, n, out});
}

template <class T, class Op, class... In>
void transform_rows(c10::Device, const RowShape& shape, const Op& op, const RowOperand& out, const In&... in) {
  constexpr int n = sizeof...(In);
  transform_rows(RowPass<T>{shape, kFunctions<T, Op, n, detail::Passes::kBoth, false>, &op, {in...}, n, out});
}

}  // namespace torchnotes
