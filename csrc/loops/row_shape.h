// Rows and the operations on them, for the traversals of rows.h and columns.h.
//
// A row consists of segments, and rows may be interleaved:
//
//   softmax over logits (R, C)            R rows of one segment of length C
//   softmax over logits (N, C, S)         N S rows of one segment of length C; S neighbors are interleaved, so that
//                                         consecutive elements of a row are S apart
//   statistics per channel of (N, C, L)   C rows of N segments of length L, C L elements from one to the next
//
// An operation defines what happens to one row. It holds what all rows share; a State, Constants and a Formula, plain
// structs of Ts, hold what belongs to one row. T is float or double, or a SIMD vector V of them:
//
//   State<T> start<T>(row)         the state before the first element
//   add(State<T>&, T x...)         adds one element of each input
//   State<T>::merge(State<T>)      merges another part of the row; start() is neutral
//   State<V>::merge_lanes(State<T>&)       optional: merges all lanes of a vector at once
//   Formula<T> finish(row, State<T>)       called once per row: writes the results of the row and returns what the
//                                  second pass needs (or nothing, if there is none)
//   T value(Formula<T>, T x...)    one element of the output
//   patch_target(row, Formula<T>)          optional, called when the row is written: overwrites a special element, such
//                                  as the target
//
// Adding to a State may be cheaper if something is known of the elements before. Then a prescan runs over some thousand
// elements, which are added afterwards while they are in cache (on the CPU only; docs/decisions/softmax.md):
//
//   Prescan<T> prescan<T>()                the state of the prescan before the first element; merged like a State
//   scan(Prescan<T>&, T x...)              one element of each input
//   Known<T> start<T>(row, Prescan<T>)     a State to which these elements are added; it converts to State<T>
//
// An operation on rows of one segment, without constants, can also be compiled for several short or neighboring rows at
// a time, with n rows in the lanes of a vector (on the CPU only; the lanes from n on are ignored). Its start() does not
// depend on the row:
//
//   static constexpr bool kShortRows = true
//   Formula<V> finish_lanes(row, n, State<V>)      or Formula<V> formula_lanes<V>(row, n)
//   patch_lanes(row, n, Formula<V>)                if there is patch_target()
//
// Its first pass may leave numbers to the second where the output goes, which must not alias an input then:
//
//   static constexpr bool kKeeps = true
//   T kept_add(Known<T>&, T x...)          instead of add(), returns what is kept
//   T kept_value(Formula<T>, T kept)       instead of value(Formula<T>, T x...)
//
// An operation on columns may do what precedes and follows them for n columns at a time:
//
//   static constexpr bool kInLanes = true
//   Constants<V> constants_lanes<V>(row, n)        and finish_lanes() or formula_lanes() as above
//
// If adding to a State is expensive, some dozens of 16-bit numbers can be added to a lighter one first
// (on the CPU only):
//
//   Partial<T> partial<T>()        the light state before the first element; merged like a State
//   add(Partial<T>&, T x...)       as for a State
//   State<T>::merge(Partial<T>)
//
// The first pass may use constants of the row:
//
//   Constants<T> row_constants(row)
//   add(State<T>&, Constants<T>, T x...)   instead of add(State<T>&, T x...)
//
// An operation with a second pass only has Formula<T> formula(row) instead of the first four.
//
// All operands of a pass have one element type. The last input may have type T where the others have 16 bits if the
// operation says so, because it takes another kernel on CUDA:
//
//   static constexpr bool kMixesTypes = true
//
// An operation with `static constexpr bool kWidened = true` is compiled for Ts only, not for 16-bit numbers, which are
// widened in a buffer first. It compiles in half the time.
//
// The arithmetic is in float for float, bfloat16 and half, in double for double. A State whose members have another
// type than T declares it: State::Number. The order of additions and merges depends on the shape only, not on the
// number of threads.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/macros/Macros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>
#include <utility>

namespace torchnotes {

// Calls f with a value of an element type: float, double, c10::Half or c10::BFloat16.
template <class F>
C10_HOST_DEVICE inline auto with_element_type(c10::ScalarType type, const F& f) {
  switch (type) {
    case c10::ScalarType::Double:
      return f(double());
    case c10::ScalarType::Half:
      return f(c10::Half());
    case c10::ScalarType::BFloat16:
      return f(c10::BFloat16());
    default:
      return f(float());
  }
}

inline int64_t element_bytes(c10::ScalarType type) {
  return type == c10::ScalarType::Double ? 8 : type == c10::ScalarType::Float ? 4 : 2;
}

// The elements of an operand, of one of the element types.
struct RowOperand {
  void* data;
  c10::ScalarType type;
  int64_t row_stride, segment_stride;
  int64_t interleaved = 1;

  C10_HOST_DEVICE int64_t offset(int64_t row, int64_t segment) const {
    return row * row_stride + segment * segment_stride;
  }
  // Of the first element of an interleaved row, whose elements are `interleaved` apart.
  C10_HOST_DEVICE int64_t first(int64_t row) const {
    return interleaved == 1 ? row * row_stride : row / interleaved * row_stride + row % interleaved;
  }

  // Element j of a row of one segment.
  template <class T>
  C10_HOST_DEVICE T read(int64_t row, int64_t j) const {
    return with_element_type(type, [&](auto zero) {
      return static_cast<T>(static_cast<const decltype(zero)*>(data)[first(row) + j * interleaved]);
    });
  }
  template <class T>
  C10_HOST_DEVICE void write(int64_t row, int64_t j, T value) const {
    with_element_type(type, [&](auto zero) {
      static_cast<decltype(zero)*>(data)[first(row) + j * interleaved] = static_cast<decltype(zero)>(value);
    });
  }
};

// One element of each of n neighboring rows, from `row` on: element j(i) of the i-th, or none if j(i) is negative.
// f(i, element) is called with a reference to it.
template <class J, class F>
inline void for_elements_of_neighbors(const RowOperand& x, int64_t row, int64_t n, const J& j, const F& f) {
  const int64_t across = x.interleaved == 1 ? x.row_stride : 1;
  with_element_type(x.type, [&](auto zero) {
    auto* const first = static_cast<decltype(zero)*>(x.data) + x.first(row);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = j(i);
      if (at >= 0) {
        f(i, first[i * across + at * x.interleaved]);
      }
    }
  });
}

// n numbers at p, one per lane. A scalar is one lane.
template <class V, class Number>
C10_HOST_DEVICE inline V load_lanes(const Number* p, int64_t n) {
  if constexpr (std::is_arithmetic_v<V>) {
    return *p;
  } else {
    return n == V::size() ? V::loadu(p) : V::loadu(p, n);
  }
}
template <class V, class Number>
C10_HOST_DEVICE inline void store_lanes(const V& x, Number* p, int64_t n) {
  if constexpr (std::is_arithmetic_v<V>) {
    *p = x;
  } else {
    n == V::size() ? x.store(p) : x.store(p, static_cast<int>(n));
  }
}

// Element j(i) of the i-th of n neighboring rows from `row` on, one per lane, or 0 if j(i) is negative. The vector is
// assembled in registers: loading what has just been stored lane by lane would wait for the stores.
template <class V, class J>
inline V elements_of_neighbors(const RowOperand& x, int64_t row, int64_t n, const J& j) {
  using T = typename V::value_type;
  const int64_t across = x.interleaved == 1 ? x.row_stride : 1;
  return with_element_type(x.type, [&](auto zero) {
    const auto* const first = static_cast<const decltype(zero)*>(x.data) + x.first(row);
    const auto element = [&](int64_t i) {
      const int64_t at = i < n ? j(i) : -1;
      return at < 0 ? T(0) : static_cast<T>(first[i * across + at * x.interleaved]);
    };
    return
        [&]<size_t... i>(std::index_sequence<i...>) { return V(element(i)...); }(std::make_index_sequence<V::size()>());
  });
}

// The first elements of n rows, one per lane. A scalar is one lane.
template <class V>
C10_HOST_DEVICE inline V first_elements(const RowOperand& x, int64_t row, int64_t n) {
  if constexpr (std::is_arithmetic_v<V>) {
    return x.read<V>(row, 0);
  } else {
    return elements_of_neighbors<V>(x, row, n, [](int64_t) { return int64_t(0); });
  }
}

struct RowShape {
  int64_t rows, segments, length, interleaved = 1;

  // An operand that has every row, contiguous in the order (segment, row, element) or (row, element, interleaved row).
  RowOperand each(const void* data, c10::ScalarType type) const {
    return {const_cast<void*>(data), type, length * interleaved, rows * length, interleaved};
  }
  // A segment that all rows and segments share, such as a weight per class.
  RowOperand shared(const void* data, c10::ScalarType type) const { return {const_cast<void*>(data), type, 0, 0}; }

  int64_t elements() const { return segments * length; }  // of a row
};

template <class Op, class T>
using StateOf = decltype(std::declval<const Op&>().template start<T>(0));

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
