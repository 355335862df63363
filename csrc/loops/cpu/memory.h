// Structs of an operation in memory of the traversals, which do not know their types.
#pragma once

#include <algorithm>
#include <new>
#include <type_traits>
#include <utility>

#include "loops/cpu/row_functions.h"
#include "loops/cpu/vectors.h"
#include "loops/row_shape.h"

namespace torchnotes {

// Inlines all calls, so that states live in registers. Not where vectors are arrays, whose loops would make it compile
// for minutes, nor under the sanitizers with their checks.
#if defined(__SANITIZE_ADDRESS__) || (defined(CPU_CAPABILITY_DEFAULT) && defined(__x86_64__))
#define TORCHNOTES_FLATTEN
#else
#define TORCHNOTES_FLATTEN [[gnu::flatten]]
#endif

namespace detail {

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
concept PatchesTarget = requires { &Op::patch_target; };

template <class Op>
concept Reduces = requires(const Op& op) { op.template start<float>(0); };

// The Formula of an operation, or void if it has no second pass.
template <class Op, class T>
constexpr auto formula_type() {
  if constexpr (Reduces<Op>) {
    return std::type_identity<decltype(std::declval<const Op&>().finish(0, std::declval<StateOf<Op, T>>()))>();
  } else {
    return std::type_identity<decltype(std::declval<const Op&>().formula(0))>();
  }
}
template <class Op, class T>
using FormulaOf = typename decltype(formula_type<Op, T>())::type;

// An operation may share its first pass with others: a base class, at the same address.
template <class Op>
struct FirstPassOf {
  using type = Op;
};
template <class Op>
  requires requires { typename Op::First; }
struct FirstPassOf<Op> {
  using type = typename Op::First;
};

// See row_shape.h.
template <class Op>
concept TakesShortRows = Op::kShortRows;
template <class Op>
concept InLanes = TakesShortRows<Op> || Op::kInLanes;

// Sets what f(column, n) returns for n columns, one per lane, for the columns [begin, end); `begin` starts a vector.
template <class V, class T, class F>
inline void set_columns(const ColumnMembers<T>& to, int64_t begin, int64_t end, const F& f) {
  for (int64_t i = begin; i < end; i += V::size()) {
    set_vectors(to.members + i, to.stride, f(i, std::min<int64_t>(V::size(), end - i)));
  }
}

}  // namespace detail
}  // namespace torchnotes
