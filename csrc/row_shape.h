// Rows and the operations on them, for the row drivers (rows.h and columns.h of cpu and cuda).
//
// A row consists of segments, and rows may be interleaved:
//
//   softmax over logits (R, C)            R rows of one segment of length C
//   softmax over logits (N, C, S)         N S rows of one segment of length C; S neighbors are interleaved, so that
//                                         consecutive elements of a row are S apart
//   statistics per channel of (N, C, L)   C rows of N segments of length L, C L elements from one to the next
//
// An operation defines what happens to one row. It holds what all rows share; a State and a Formula, both plain structs
// of Ts, hold what belongs to one row, where T is a scalar or a SIMD vector:
//
//   State<T> start<T>(row)         the state before the first element
//   add(State<T>&, T x...)         adds one element of each input
//   State<T>::merge(State<T>)      merges another part of the row; start() is neutral
//   State<V>::merge_lanes(State<T>&)       optional, for SIMD vectors V: merges all lanes at once
//   Formula<acc> finish(row, State<acc>)   called once per row: writes the results of the row and returns what the
//                                  second pass needs (or nothing, if there is none)
//   T value(Formula<T>, T x...)    one element of the output
//   patch_target(row, Formula<acc>)        optional, called when the row is written: overwrites a special element, such
//                                  as the target
//
// Adding to a State may be cheaper if something is known of the elements before. Then a prescan runs over some thousand
// elements, which are added afterwards while they are in cache (on the CPU only; docs/decisions/softmax.md):
//
//   Prescan<T> prescan<T>()                the state of the prescan before the first element; merged like a State
//   scan(Prescan<T>&, T x...)              one element of each input
//   Known<T> start<T>(row, Prescan<acc>)   a State to which these elements are added; it converts to State<acc>
//
// If adding to a State is expensive, some dozens of elements can be added to a lighter one first (on the CPU only):
//
//   static constexpr bool kBlocks = true
//   Block<T> block<T>()            the block before the first element
//   add(Block<T>&, T x...)         as for a State
//   State<T>::merge(Block<T>)
//
// The first pass may use constants of the row:
//
//   Constants<acc> row_constants(row)
//   add(State<T>&, Constants<T>, T x...)   instead of add(State<T>&, T x...)
//
// An operation with a second pass only has Formula<acc> formula(row) instead of the first four.
//
// Statistics (acc) are in float for float, bfloat16 and half, in double for double. A State or a Formula whose members
// have another type than T declares it: State::Number. The order of additions and merges depends on the shape only, not
// on the number of threads.
#pragma once

#include <ATen/OpMathType.h>
#include <c10/macros/Macros.h>

#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

namespace torchnotes {

// The accumulation type of inputs of these types, the same for all of them.
template <class... In>
using AccOf = at::opmath_type<std::tuple_element_t<0, std::tuple<In...>>>;

template <class T>
struct RowOperand {
  T* data;
  int64_t row_stride, segment_stride;
  int64_t interleaved = 1;

  C10_HOST_DEVICE T* at(int64_t row, int64_t segment) const {
    return data + row * row_stride + segment * segment_stride;
  }
  // The first element of an interleaved row, whose elements are `interleaved` apart.
  C10_HOST_DEVICE T* strided_row(int64_t row) const {
    return data + row / interleaved * row_stride + row % interleaved;
  }
};

struct RowShape {
  int64_t rows, segments, length, interleaved = 1;

  // An operand that has every row, contiguous in the order (segment, row, element) or (row, element, interleaved row).
  template <class T>
  RowOperand<T> each(T* data) const {
    return {data, length * interleaved, rows * length, interleaved};
  }
  // A segment that all rows and segments share, such as a weight per class.
  template <class T>
  RowOperand<T> shared(T* data) const {
    return {data, 0, 0};
  }
};

template <class Op, class = void>
inline constexpr bool has_row_constants = false;
template <class Op>
inline constexpr bool has_row_constants<Op, std::void_t<decltype(std::declval<const Op&>().row_constants(0))>> = true;

struct NoConstants {};

template <class Op>
C10_HOST_DEVICE inline auto row_constants(const Op& op, int64_t row) {
  if constexpr (has_row_constants<Op>) {
    return op.row_constants(row);
  } else {
    return NoConstants();
  }
}

// op.add, with the constants of the row if the operation has any.
template <class Op, class State, class Constants, class... T>
C10_HOST_DEVICE inline void add_elements(const Op& op, State& state, const Constants& constants, const T&... x) {
  if constexpr (has_row_constants<Op>) {
    op.add(state, constants, x...);
  } else {
    op.add(state, x...);
  }
}

template <class Op, class Formula>
C10_HOST_DEVICE inline auto patch_target(const Op& op, int64_t row, const Formula& f, int)
    -> decltype(op.patch_target(row, f)) {
  op.patch_target(row, f);
}
template <class Op, class Formula>
C10_HOST_DEVICE inline void patch_target(const Op&, int64_t, const Formula&, long) {
}  // for operations without patch_target()

}  // namespace torchnotes
