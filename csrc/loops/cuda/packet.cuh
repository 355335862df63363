// Packets: neighboring elements, 16 bytes at most, that a thread reads or writes in one access.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace torchnotes {

template <class Element, int n>
struct alignas(n * sizeof(Element)) Packet {
  Element lane[n];
};

// The number of elements with which the widest type fills 16 bytes.
template <class... Element>
constexpr int kPacket = 16 / std::max({sizeof(Element)...});

inline bool starts_packet(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <int n, class Element>
__device__ inline Packet<Element, n> load(const Element* p) {
  return *reinterpret_cast<const Packet<Element, n>*>(p);
}

template <class Element, int n>
__device__ inline void store(Element* p, const Packet<Element, n>& x) {
  *reinterpret_cast<Packet<Element, n>*>(p) = x;
}

}  // namespace torchnotes
