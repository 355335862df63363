// How vectors of float or double are loaded from memory, and stored: as they are, or widened from 16 bits and rounded.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "loops/cpu/stream.h"
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
  void store(T* p, const V& x, bool streamed = false) const { streamed ? stream(p, x) : x.store(p); }
  void store_some(T* p, const V& x, int64_t n) const { x.store(p, static_cast<int>(n)); }
  void store_pair(T* p, const V& a, const V& b, bool streamed) const {
    store(p, a, streamed);
    store(p + V::size(), b, streamed);
  }
};

// One compiled loop serves both types of 16 bits: the branch is the same for all elements.
struct LoadNarrow {
  using Element = uint16_t;
  using V = Vectorized<float>;
  static constexpr bool kNarrow = true;
  bool half;

#ifdef CPU_CAPABILITY_AVX512
  static __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
#endif

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
#ifdef CPU_CAPABILITY_AVX512
    const __m256i some = _mm256_maskz_loadu_epi16(first_lanes(n), p);
    return (*this)(reinterpret_cast<const uint16_t*>(&some));
#else
    uint16_t some[V::size()] = {};
    std::copy_n(p, n, some);
    return (*this)(some);
#endif
  }
  void store(uint16_t* p, const V& x, bool = false) const { store_some(p, x, V::size()); }
  void store_some(uint16_t* p, const V& x, int64_t n) const {
#ifdef CPU_CAPABILITY_AVX512
    with_rounded(x, x, [&](const auto& both) {
      _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_castsi512_si256(both));
    });
#else
    with_rounded(x, x, [&](const auto& both) { std::memcpy(p, &both, n * sizeof(*p)); });
#endif
  }
  void store_pair(uint16_t* p, const V& a, const V& b, bool streamed) const {
    with_rounded(a, b, [&](const auto& both) { streamed ? stream(p, both) : both.store(p); });
  }

 private:
  template <class F>
  void with_rounded(const V& a, const V& b, const F& f) const {
    half ? f(at::vec::convert_from_float<c10::Half>(a, b)) : f(at::vec::convert_from_float<c10::BFloat16>(a, b));
  }
};

// Calls f(load) where the type of 16 bits is a constant, so that each has a loop of its own.
template <class Load, class F>
inline void with_narrow_type(const Load load, const F& f) {
  if constexpr (Load::kNarrow) {
    load.half ? f(LoadNarrow{true}) : f(LoadNarrow{false});
  } else {
    f(load);
  }
}

// Loads and stores only some lanes of each vector.
template <class Load>
struct LoadLanes {
  using Element = typename Load::Element;
  using V = typename Load::V;
  static constexpr bool kNarrow = Load::kNarrow;
  Load load;
  int64_t lanes;

  V operator()(const Element* p) const { return lanes == V::size() ? load(p) : load(p, lanes); }
  V operator()(const Element* p, int64_t n) const { return load(p, n); }
  void store(Element* p, const V& x) const { load.store_some(p, x, lanes); }
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

namespace detail {

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

}  // namespace detail
}  // namespace torchnotes
