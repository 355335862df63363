// SIMD vectors of float or double, and plain structs of them: one struct per lane becomes one struct of vectors, and
// back. All members of a struct have one type: T, or the struct's own Number.
#pragma once

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace torchnotes {

using at::vec::Vectorized;

// Calls f(k) for k in [0, n), with k as a constant, so that an array indexed by k can live in registers.
template <int n, class F>
inline void unrolled(const F& f) {
  [&]<int... k>(std::integer_sequence<int, k...>) {
    (f(std::integral_constant<int, k>()), ...);
  }(std::make_integer_sequence<int, n>());
}

// Memory for vectors that are written before they are read: clearing it first would take as long as the rest.
template <class Vectors>
union Uninitialized {
  Uninitialized() {}
  Vectors value;
};

template <class Struct, class T, class = void>
struct NumberIn {
  using type = T;
};
template <class Struct, class T>
struct NumberIn<Struct, T, std::void_t<typename Struct::Number>> {
  using type = typename Struct::Number;
};

// The members of a struct, and the struct of given members. Vectors are copied one by one: compilers copy a struct of
// them in smaller pieces, which stalls whoever reads the vectors next.
template <class Number, class Struct>
inline auto members_of(const Struct& x) {
  std::array<Number, sizeof(Struct) / sizeof(Number)> members;
  static_assert(std::is_trivially_copyable_v<Struct> && sizeof(members) == sizeof(Struct), "members of one type");
  if constexpr (std::is_arithmetic_v<Number>) {
    std::memcpy(static_cast<void*>(&members), &x, sizeof(Struct));
  } else {
    for (size_t k = 0; k < members.size(); ++k) {
      members[k] = Number::loadu(reinterpret_cast<const char*>(&x) + k * sizeof(Number));
    }
  }
  return members;
}
template <class Struct, class Number, size_t n>
inline void set_members(Struct& x, const std::array<Number, n>& members) {
  static_assert(std::is_trivially_copyable_v<Struct> && sizeof(members) == sizeof(Struct), "members of one type");
  if constexpr (std::is_arithmetic_v<Number>) {
    std::memcpy(static_cast<void*>(&x), &members, sizeof(Struct));
  } else {
    for (size_t k = 0; k < n; ++k) {
      members[k].store(reinterpret_cast<char*>(&x) + k * sizeof(Number));
    }
  }
}

// A struct of vectors whose lanes are the structs scalars_at(lane).
template <class Vectors, class V, class F>
inline Vectors vectors_from(const F& scalars_at) {
  using Scalars = std::remove_cvref_t<decltype(scalars_at(0))>;
  using T = typename NumberIn<Scalars, typename V::value_type>::type;
  constexpr size_t kMembers = sizeof(Scalars) / sizeof(T);
  static_assert(sizeof(Vectors) == kMembers * V::size() * sizeof(T));
  alignas(64) std::array<std::array<T, V::size()>, kMembers> members;
  for (int lane = 0; lane < V::size(); ++lane) {
    const auto one = members_of<T>(scalars_at(lane));
    for (size_t i = 0; i < kMembers; ++i) {
      members[i][lane] = one[i];
    }
  }
  using Part = Vectorized<T>;
  std::array<Part, sizeof(Vectors) / sizeof(Part)> parts;
  for (size_t k = 0; k < parts.size(); ++k) {
    parts[k] = Part::loadu(members[0].data() + k * Part::size());
  }
  Vectors result;
  set_members(result, parts);
  return result;
}
template <class Vectors, class V, class Scalars>
inline Vectors to_vectors(const std::array<Scalars, V::size()>& lanes) {
  return vectors_from<Vectors, V>([&](int lane) -> const Scalars& { return lanes[lane]; });
}

template <class V, class Scalars, class Vectors>
inline void to_scalars(const Vectors& vectors, Scalars* lanes) {
  using T = typename NumberIn<Scalars, typename V::value_type>::type;
  constexpr size_t kMembers = sizeof(Scalars) / sizeof(T);
  alignas(64) std::array<std::array<T, V::size()>, kMembers> members;
  const auto parts = members_of<Vectorized<T>>(vectors);
  for (size_t k = 0; k < parts.size(); ++k) {
    parts[k].store(members[0].data() + k * Vectorized<T>::size());
  }
  for (int lane = 0; lane < V::size(); ++lane) {
    std::array<T, kMembers> one;
    for (size_t i = 0; i < kMembers; ++i) {
      one[i] = members[i][lane];
    }
    set_members(lanes[lane], one);
  }
}

// A struct of vectors in arrays of its members, which are `stride` elements apart.
template <class T, class Vectors>
inline void set_vectors(T* members, int64_t stride, const Vectors& x) {
  const auto all = members_of<Vectorized<T>>(x);
  for (size_t k = 0; k < all.size(); ++k) {
    all[k].store(members + k * stride);
  }
}
template <class Vectors, class T>
inline Vectors vectors_at(const T* members, int64_t stride) {
  using V = Vectorized<T>;
  std::array<V, sizeof(Vectors) / sizeof(V)> all;
  for (size_t k = 0; k < all.size(); ++k) {
    all[k] = V::loadu(members + k * stride);
  }
  Vectors result;
  set_members(result, all);
  return result;
}

// S<V> from an S<T> per lane, or from one for all lanes.
template <class V, template <class> class S, class T>
inline S<V> packed(const std::array<S<T>, V::size()>& lanes) {
  return to_vectors<S<V>, V>(lanes);
}
template <class V, template <class> class S, class T>
inline S<V> broadcast(const S<T>& one) {
  static_assert(sizeof(S<V>) == sizeof(S<T>) / sizeof(T) * sizeof(V));
  const auto members = members_of<T>(one);
  std::array<V, sizeof(S<T>) / sizeof(T)> vectors;
  for (size_t i = 0; i < members.size(); ++i) {
    vectors[i] = V(members[i]);
  }
  S<V> result;
  set_members(result, vectors);
  return result;
}

// The first n lanes of `added` and the other lanes of `old`, for States of vectors V.
template <class V, class State>
inline State blend_lanes(const State& old, const State& added, int64_t n) {
  using Number = Vectorized<typename NumberIn<State, typename V::value_type>::type>;  // V may be several Numbers
  auto x = members_of<Number>(old);
  const auto y = members_of<Number>(added);
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t before = i * Number::size() % V::size();
    const Number first(static_cast<typename Number::value_type>(n - before));
    x[i] = Number::blendv(x[i], y[i], Number::arange(0, 1) < first);
  }
  State result = old;
  set_members(result, x);
  return result;
}

// The lanes of `added` that a mask chooses, and the other lanes of `old`, for States whose members are Vs.
template <class V, class State>
inline State blend_lanes(const State& old, const State& added, const V& mask) {
  auto x = members_of<V>(old);
  const auto y = members_of<V>(added);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = V::blendv(x[i], y[i], mask);
  }
  State result = old;
  set_members(result, x);
  return result;
}

// Merges all lanes into a State of scalars: with State::merge_lanes if it exists, otherwise one by one.
template <class V, class State, class Result>
inline void merge_lanes(const State& all, Result& result) {
  if constexpr (requires { all.merge_lanes(result); }) {
    all.merge_lanes(result);
  } else {
    std::array<Result, V::size()> lanes;
    to_scalars<V>(all, lanes.data());
    for (const Result& lane : lanes) {
      result.merge(lane);
    }
  }
}

// Merges all states into the first.
template <class State, size_t n>
inline void merge_all(std::array<State, n>& states) {
  for (size_t half = n / 2; half > 0; half /= 2) {
    for (size_t k = 0; k < half; ++k) {
      states[k].merge(states[k + half]);
    }
  }
}

}  // namespace torchnotes
