// Operands of rows whose element types are known at compile time, because each combination is a kernel of its own.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>
#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "loops/row_shape.h"

namespace torchnotes {

template <class E>
struct Typed : RowOperand {
  using Element = E;

  __device__ Element* elements() const { return static_cast<Element*>(data); }
  // Element j of a row of one segment.
  __device__ Element& at(int64_t row, int64_t j) const { return elements()[first(row) + j * interleaved]; }
};

// Whether the last input of an operation may be a T where the others have 16 bits.
template <class Op>
concept MixesTypes = requires { requires Op::kMixesTypes; };

// Calls f with a zero of an element type that is processed as T.
template <class T, class F>
void with_elements(c10::ScalarType type, const F& f) {
  if constexpr (std::is_same_v<T, double>) {
    TORCH_INTERNAL_ASSERT(type == c10::ScalarType::Double);
    f(double());
  } else if (type == c10::ScalarType::Half) {
    f(c10::Half());
  } else if (type == c10::ScalarType::BFloat16) {
    f(c10::BFloat16());
  } else {
    TORCH_INTERNAL_ASSERT(type == c10::ScalarType::Float);
    f(float());
  }
}

template <class Element, class... Operands>
bool have_type(const Operands&... operands) {
  return ((operands.type == c10::CppTypeToScalarType<Element>::value) && ...);
}

// Calls f with the operands, typed: all have the type of the first, except perhaps the last input.
template <class T, class Op, class F, class... Operands>
void with_types(const F& f, const RowOperand& first, const Operands&... rest) {
  with_elements<T>(first.type, [&](auto zero) {
    using Element = decltype(zero);
    if (have_type<Element>(rest...)) {
      f(Typed<Element>{first}, Typed<Element>{rest}...);
      return;
    }
    if constexpr (MixesTypes<Op> && sizeof...(rest) > 0 && !std::is_same_v<Element, T>) {
      const std::array<RowOperand, 1 + sizeof...(rest)> all{first, rest...};
      [&]<size_t... i>(std::index_sequence<i...>) {
        TORCH_INTERNAL_ASSERT(have_type<Element>(all[i]...) && have_type<T>(all.back()), "unexpected element types");
        f(Typed<Element>{all[i]}..., Typed<T>{all.back()});
      }(std::make_index_sequence<sizeof...(rest)>());
    } else {
      TORCH_INTERNAL_ASSERT(false, "unexpected element types");
    }
  });
}

}  // namespace torchnotes
