// The elementwise traversal: map<T, inputs>(device, f, operands) computes f(a_i, b_i, ...) for every element.
//
// The value of an element depends neither on its position nor on the number of threads, because tails and strided
// elements go through the same vector code.
#pragma once

#include <c10/core/Device.h>

#include <array>
#include <cstdint>
#include <utility>

#include "loops/cpu/rows.h"
#include "loops/map_operands.h"

namespace torchnotes {

template <class T>
struct NoFormula {
  T unused;
};

// f as an operation on rows (row_shape.h) that are all alike.
template <class T, class F>
struct MapOf {
  F f;
  NoFormula<T> formula(int64_t) const { return {}; }
  template <class V, class... X>
  V value(const NoFormula<V>&, const X&... x) const {
    return f(x...);
  }
};

template <class T, class F, int inputs>
inline constexpr const RowFunctions<T>& kMapFunctions =
    kFunctions<T, MapOf<T, F>, inputs, detail::Passes::kSecond, detail::Layout::kRows>;

void map(const RowFunctions<float>& functions, const void* op, int inputs, const MapOperands& operands);
void map(const RowFunctions<double>& functions, const void* op, int inputs, const MapOperands& operands);

template <class T, int inputs, class F>
void map(c10::Device, const F& f, const MapOperands& operands) {
  const MapOf<T, F> op{f};
  map(kMapFunctions<T, F, inputs>, &op, inputs, operands);
}

}  // namespace torchnotes
