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

template <class Element>
struct Typed : RowOperand {
  __device__ Element* elements() const { return static_cast<Element*>(data); }
  // Element j of a row of one segment.
  __device__ Element& at(int64_t row, int64_t j) const { return elements()[first(row) + j * interleaved]; }
};

// Whether the last input of an operation may be a T where the others have 16 bits.
template <class Op>
concept MixesTypes = requires { requires Op::kMixesTypes; };

template <class Element, class... Operands>
bool have_type(const Operands&... operands) {
  return ((operands.type == c10::CppTypeToScalarType<Element>::value) && ...);
}

// Calls f with the operands, typed: all have the type of the first, except perhaps the last input.
template <class T, class Op, class F, class... Operands>
void with_types(const F& f, const RowOperand& first, const Operands&... rest) {
  const auto call = [&](auto zero) {
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
  };
  if constexpr (std::is_same_v<T, double>) {
    TORCH_INTERNAL_ASSERT(have_type<double>(first));
    call(double());
  } else if (have_type<c10::Half>(first)) {
    call(c10::Half());
  } else if (have_type<c10::BFloat16>(first)) {
    call(c10::BFloat16());
  } else {
    TORCH_INTERNAL_ASSERT(have_type<float>(first));
    call(float());
  }
}

}  // namespace torchnotes
