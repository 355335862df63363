// The row drivers. An operation on rows is a struct that says what happens to one row:
//
//   State<T> start<T>(row)       nothing seen yet, for T a scalar or a SIMD vector. State has
//     void add(T x...)             one element of each input
//     void merge(State)            what another part of the row has seen; merging what start() gives changes nothing
//   finish(row, State<acc> all)  called once; writes results per row, and returns the formula of the second pass
//     T operator()(T x...)         computes one element of the output (transform_rows and map_rows)
//
// reduce_rows does the first pass, map_rows the second (its `finish` takes the row alone), transform_rows both while the
// row is in cache. The output may be an input. A State consists of T only, as each lane of a vector is a state of its
// own; lanes are merged in pairs, pieces of a row in order. Pieces have a fixed size, so that results do not depend on the
// number of threads. Statistics are in float for float, bfloat16 and half, in double for double.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include <array>
#include <cstring>
#include <vector>

#include "../row_shape.h"
#include "map.h"

namespace torchnotes {
namespace {

constexpr int64_t kPiece = 32768;  // elements: a multiple of every vector, too long for the merging of lanes to count
constexpr int kStates = 4;         // independent, so that an addition need not wait for the one before

template <class scalar_t>
using Lanes = Vectorized<at::opmath_type<scalar_t>>;

template <class Op, class T>
using StateOf = decltype(std::declval<Op>().template start<T>(0));

template <class scalar_t>
inline Lanes<scalar_t> load_lanes(const scalar_t* p) {
  if constexpr (is_half<scalar_t>) {
    Lanes<scalar_t> x;
    at::vec::load_to_float<scalar_t>(p, x);
    return x;
  } else {
    return Lanes<scalar_t>::loadu(p);
  }
}

template <class scalar_t>
inline Lanes<scalar_t> load_lanes(const scalar_t* p, int64_t n) {
  std::array<scalar_t, Lanes<scalar_t>::size()> block{};
  std::copy_n(p, n, block.begin());
  return load_lanes(block.data());
}

// A state of vectors, member by member.
template <class State, class V, class F>
inline void for_members(State& a, const State& b, const F& f) {
  static_assert(std::is_trivially_copyable_v<State> && sizeof(State) % sizeof(V) == 0, "a State consists of T only");
  std::array<V, sizeof(State) / sizeof(V)> x, y;
  std::memcpy(x.data(), &a, sizeof(State));
  std::memcpy(y.data(), &b, sizeof(State));
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = f(x[i], y[i]);
  }
  std::memcpy(&a, x.data(), sizeof(State));
}
