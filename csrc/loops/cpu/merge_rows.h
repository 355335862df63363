// Merges the lanes of one State per row in a tree of shuffles: the result has one row per lane. A merge of two vectors
// serves two rows, then four, so that n rows of n lanes take n - 1 merges, where one row alone takes log2(n).
#pragma once

#include <array>
#include <cstring>
#include <utility>

#include "loops/cpu/vectors.h"

namespace torchnotes {
namespace detail {

// Where step `step` of the tree finds lane i of a pair of vectors, counted through both: first within blocks of 16
// bytes, then between them, because that is what processors shuffle fastest.
//
//   step 0   a0 b0 a1 b1 | a4 b4 a5 b5     and its other half   a2 b2 a3 b3 | a6 b6 a7 b7
//   step 1   a0 a1 b0 b1 | a4 a5 b4 b5                          a2 a3 b2 b3 | a6 a7 b6 b7
//   step 2   a0 a1 a2 a3 | b0 b1 b2 b3                          a4 a5 a6 a7 | b4 b5 b6 b7
template <class T, int n>
constexpr int lane_of_pair(int step, bool other, int i) {
  constexpr int kBlock = 16 / sizeof(T);
  const int unit = 1 << step, block = i / kBlock, j = i % kBlock;
  if (unit < kBlock) {
    return (j / unit % 2) * n + block * kBlock + j / (2 * unit) * unit + j % unit + (other ? kBlock / 2 : 0);
  }
  const int half = n / kBlock / 2;
  return block / half * n + (2 * (block % half) + (other ? 1 : 0)) * kBlock + j;
}

template <int step, bool other, class V>
inline V pair_lanes(const V& a, const V& b) {
  using T = typename V::value_type;
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Lanes __attribute__((vector_size(sizeof(V))));
  typedef Index Order __attribute__((vector_size(sizeof(V))));
  Lanes x, y;
  std::memcpy(&x, &a, sizeof(V));
  std::memcpy(&y, &b, sizeof(V));
  const Lanes z = [&]<int... i>(std::integer_sequence<int, i...>) {
#ifdef __clang__
    return __builtin_shufflevector(x, y, lane_of_pair<T, V::size()>(step, other, i)...);
#else
    return __builtin_shuffle(x, y, Order{lane_of_pair<T, V::size()>(step, other, i)...});
#endif
  }(std::make_integer_sequence<int, V::size()>());
  V result;
  std::memcpy(static_cast<void*>(&result), &z, sizeof(V));
  return result;
}

template <int step, bool other, class V, class State>
inline State pair_states(const State& a, const State& b) {
  auto x = members_of<V>(a);
  const auto y = members_of<V>(b);
  for (size_t k = 0; k < x.size(); ++k) {
    x[k] = pair_lanes<step, other>(x[k], y[k]);
  }
  State result = a;
  set_members(result, x);
  return result;
}

template <int step, class V, class State, size_t n>
inline State merge_steps(const std::array<State, n>& states) {
  if constexpr (n == 1) {
    return states[0];
  } else {
    std::array<State, n / 2> merged{pair_states<step, false, V>(states[0], states[1])};
    unrolled<n / 2>([&](auto k) {
      merged[k] = pair_states<step, false, V>(states[2 * k], states[2 * k + 1]);
      merged[k].merge(pair_states<step, true, V>(states[2 * k], states[2 * k + 1]));
    });
    return merge_steps<step + 1, V>(merged);
  }
}

}  // namespace detail

// The State of row i in lane i, from one State of vectors V per row.
template <class V, class State>
inline State merge_rows(const std::array<State, V::size()>& rows) {
  return detail::merge_steps<0, V>(rows);
}

}  // namespace torchnotes
