// What the row drivers (rows.h and columns.h of cpu and cuda) say of rows: where they lie, and what an operation on one
// is.
//
// A row is made of segments, and the rows may be interleaved:
//
//   softmax over logits (R, C)            R rows of one segment of length C
//   softmax over logits (N, C, S)         N S rows of one segment of length C; S neighbours are interleaved, so that
//                                         an element stands S after the one before
//   statistics per channel of (N, C, L)   C rows of N segments of length L, C L elements from one to the next
//
// An operation tells what happens to one row. It holds what is alike for all rows; a State and a Formula, both plain
// structs of Ts, hold what is a row's own, T being a scalar or a SIMD vector:
//
//   State<T> start<T>(row)         nothing seen yet
//   add(State<T>&, T x...)         one element of each input
//   State<T>::merge(State<T>)      what another part of the row has seen; start() counts as nothing seen
//   State<V>::merge_lanes(State<T>&)       optional, for SIMD vectors V: all lanes at once
//   Formula<acc> finish(row, State<acc>)   called once when all is seen: writes results per row, and returns what the
//                                  second pass needs (or nothing, if there is none)
//   T value(Formula<T>, T x...)    one element of the output
//   amend(row, Formula<acc>)       optional, called when the row is written: for an element of its own, like a target
//
// A State that is cheaper to add to once something is known of all elements may have it found out, in a pass over some
// thousand elements at a time, each time followed by their addition to a State that knows it (on the CPU, where they
// stay in cache meanwhile):
//
//   Survey<T> survey<T>()                  nothing seen yet: merged as a State is
//   look(Survey<T>&, T x...)               one element of each input
//   Known<T> start<T>(row, Survey<acc>)    a State to which these elements can be added; a State<acc>, when it is done
//
// A State that is dear to add to may have a lighter one to which some dozens of elements are added (on the CPU):
//
//   static constexpr bool kBlocks = true
//   Block<T> block<T>()            nothing seen yet
//   add(Block<T>&, T x...)         as to a State
//   State<T>::merge(Block<T>)
//
// An operation may have what it knows of a row before its first pass handed to that:
//
//   Known<acc> before(row)
//   add(State<T>&, Known<T>, T x...)       in place of add(State<T>&, T x...); Known<acc> on the way through one row
//
// A second pass alone has Formula<acc> of(row) in place of the first four.
//
// Statistics (acc) are in float for float, bfloat16 and half, in double for double. A State or a Formula whose members
// are of another type than T says so: State::Number. The order of additions and merges
// is fixed by the shape: not by the number of threads.
#pragma once

#include <ATen/OpMathType.h>
#include <c10/macros/Macros.h>

#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

namespace torchnotes {

// In what inputs of these types are computed: the same for all of them.
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
  // The same where rows are interleaved. Their elements stand `interleaved` apart.
  C10_HOST_DEVICE T* among_others(int64_t row) const {
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
  // One segment that serves every row and segment, as a weight per class does.
  template <class T>
  RowOperand<T> shared(T* data) const {
    return {data, 0, 0};
  }
};

template <class Op, class = void>
inline constexpr bool knows_before = false;
template <class Op>
inline constexpr bool knows_before<Op, std::void_t<decltype(std::declval<const Op&>().before(0))>> = true;

struct Nothing {};

template <class Op>
C10_HOST_DEVICE inline auto before_row(const Op& op, int64_t row) {
  if constexpr (knows_before<Op>) {
    return op.before(row);
  } else {
    return Nothing();
  }
}

// op.add, with what is known before where the operation wants it.
template <class Op, class State, class Known, class... T>
C10_HOST_DEVICE inline void add_elements(const Op& op, State& state, const Known& known, const T&... x) {
  if constexpr (knows_before<Op>) {
    op.add(state, known, x...);
  } else {
    op.add(state, x...);
  }
}

template <class Op, class Formula>
C10_HOST_DEVICE inline auto amend(const Op& op, int64_t row, const Formula& f, int) -> decltype(op.amend(row, f)) {
  op.amend(row, f);
}
template <class Op, class Formula>
C10_HOST_DEVICE inline void amend(const Op&, int64_t, const Formula&, long) {}  // for operations without amend()

}  // namespace torchnotes
