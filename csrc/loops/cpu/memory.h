// Structs of an operation in memory of the traversals, which do not know their types.
#pragma once

#include <new>
#include <type_traits>
#include <utility>

#include "loops/cpu/row_functions.h"
#include "loops/cpu/vectors.h"
#include "loops/row_shape.h"

namespace torchnotes {

// Inlines all calls, so that states live in registers. Not under the sanitizers, whose checks would make it compile for
// minutes.
#ifdef __SANITIZE_ADDRESS__
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

}  // namespace detail
}  // namespace torchnotes
