// How vectors of float or double are loaded from memory, and stored: as they are, or widened from 16 bits and rounded.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "loops/cpu/vectors.h"

namespace torchnotes {

template <class T>
inline constexpr c10::ScalarType kTypeOf = c10::CppTypeToScalarType<T>::value;

template <class T>
struct LoadAsIs {
  using Element = T;
  using V = Vectorized<T>;
  static constexpr bool kNarrow = false;

  V operator()(const T* p) const { return V::loadu(p); }
  V operator()(const T* p, int64_t n) const { return V::loadu(p, n); }
  void store(T* p, const V& x) const { x.store(p); }
  void store(T* p, const V& x, int64_t n) const { x.store(p, static_cast<int>(n)); }
};

// One compiled loop serves both types of 16 bits: the branch is the same for all elements.
struct LoadNarrow {
  using Element = uint16_t;
  using V = Vectorized<float>;
  static constexpr bool kNarrow = true;
  bool half;

  V operator()(const uint16_t* p) const {
    V x;
    if (half) {
      at::vec::load_to_float<c10::Half>(reinterpret_cast<const c10::Half*>(p), x);
    } else {
      at::vec::load_to_float<c10::BFloat16>(reinterpret_cast<const c10::BFloat16*>(p), x);
    }
    return x;
  }
  V operator()(const uint16_t* p, int64_t n) const {
    uint16_t some[V::size()] = {};
    std::copy_n(p, n, some);
    return (*this)(some);
  }
  void store(uint16_t* p, const V& a, const V& b) const { store_bytes(p, a, b, 2 * V::size() * sizeof(*p)); }
  void store(uint16_t* p, const V& x) const { store_bytes(p, x, x, V::size() * sizeof(*p)); }
  void store(uint16_t* p, const V& x, int64_t n) const { store_bytes(p, x, x, n * sizeof(*p)); }

 private:
  void store_bytes(uint16_t* p, const V& a, const V& b, size_t bytes) const {
    if (half) {
      const auto x = at::vec::convert_from_float<c10::Half>(a, b);
      std::memcpy(p, &x, bytes);
    } else {
      const auto x = at::vec::convert_from_float<c10::BFloat16>(a, b);
      std::memcpy(p, &x, bytes);
    }
  }
};

// Calls f(load), where `load` loads Ts from elements of a type.
template <class T, class F>
inline void with_load(c10::ScalarType type, const F& f) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (type != kTypeOf<T>) {
      f(LoadNarrow{type == c10::ScalarType::Half});
      return;
    }
  }
  f(LoadAsIs<T>());
}

}  // namespace torchnotes
