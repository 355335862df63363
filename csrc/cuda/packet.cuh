// Packets: neighboring elements, 16 bytes at most, that a thread reads or writes in one access.
#pragma once

#include <ATen/OpMathType.h>

#include <algorithm>
#include <cstdint>

#include "launch.cuh"

namespace torchnotes {
namespace {

template <class scalar_t, int n>
struct alignas(n * sizeof(scalar_t)) Packet {
  scalar_t lane[n];
};

// The number of elements with which the widest type fills 16 bytes.
template <class... scalar_t>
constexpr int kPacket = 16 / std::max({sizeof(scalar_t)...});

inline bool starts_packet(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <int n, class scalar_t>
__device__ inline Packet<scalar_t, n> load(const scalar_t* p) {
  return *reinterpret_cast<const Packet<scalar_t, n>*>(p);
}

template <class scalar_t, int n>
__device__ inline void store(scalar_t* p, const Packet<scalar_t, n>& x) {
  *reinterpret_cast<Packet<scalar_t, n>*>(p) = x;
}

// bfloat16 and half are computed in float.
template <class F, class scalar_t, int n, class... Rest>
__device__ inline Packet<scalar_t, n> apply(const F& f, const Packet<scalar_t, n>& a, const Rest&... rest) {
  using acc_t = at::opmath_type<scalar_t>;
  Packet<scalar_t, n> y;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    y.lane[i] = static_cast<scalar_t>(f(static_cast<acc_t>(a.lane[i]), static_cast<acc_t>(rest.lane[i])...));
  }
  return y;
}

}  // namespace
}  // namespace torchnotes
