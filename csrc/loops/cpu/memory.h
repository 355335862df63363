// Structs of an operation in memory of the traversals, which do not know their types.
#pragma once

#include <array>
#include <new>
#include <tuple>
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

template <class Op>
concept Widened = Op::kWidened;

// Calls f(load), where `load` loads inputs of rows.
template <class T, class Op, class F>
inline void with_load_of_rows(c10::ScalarType type, const F& f) {
  if constexpr (Widened<Op>) {
    f(LoadAsIs<T>());
  } else {
    with_load<T>(type, f);
  }
}

// The same, with a loop for each type of 16 bits.
template <class T, class Op, class F>
inline void with_load_by_type(c10::ScalarType type, const F& f) {
  with_load_of_rows<T, Op>(type, [&](const auto load) {
    if constexpr (load.kNarrow) {
      load.half ? f(LoadNarrow{true}) : f(LoadNarrow{false});
    } else {
      f(load);
    }
  });
}

// An operation that applies a stage (stage.h) between loading and adding or storing: first_input <- stage(...), where
// stage_input(constants or formula, x...) is what the stage is applied to.
template <class Op>
concept Stages = Op::kStaged;

constexpr int64_t kStaged = 32;  // vectors that a stage is applied to at a time

// Inputs of a staged operation as Ts, the first of which is replaced.
template <class T, class Op, size_t inputs>
class StagedInputs {
  using V = Vectorized<T>;

 public:
  // load(k, j) loads vector j of input k; constants(j) are those of vector j.
  template <class Load, class Constants>
  StagedInputs(const Op& op, int64_t n, const Load& load, const Constants& constants) {
    alignas(64) T z[kStaged * V::size()];
    for (int64_t j = 0; j < n; ++j) {
      std::array<V, inputs> x;
      for (size_t k = 0; k < inputs; ++k) {
        x[k] = load(k, j);
        x[k].store(data_[k] + j * V::size());
      }
      std::apply([&](const auto&... of) { return op.stage_input(constants(j), of...); }, x).store(z + j * V::size());
    }
    op.apply_stage(n * V::size(), data_[0], z, data_[0]);
  }

  // Calls f(x...) for vector j.
  template <class F>
  auto apply(int64_t j, const F& f) const {
    return [&]<size_t... k>(std::index_sequence<k...>) {
      return f(V::loadu(data_[k] + j * V::size())...);
    }(std::make_index_sequence<inputs>());
  }

 private:
  alignas(64) T data_[inputs][kStaged * V::size()];
};

}  // namespace detail
}  // namespace torchnotes
