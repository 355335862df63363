// The elementwise traversal, with the interface of loops/cpu/map.h. Dense operands go through packets.
#pragma once

#include <ATen/ceil_div.h>
#include <c10/core/Device.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "loops/cuda/launch.cuh"
#include "loops/cuda/packet.cuh"
#include "loops/cuda/typed.cuh"
#include "loops/map_operands.h"

namespace torchnotes {

constexpr int kMapThreads = 256;

__device__ inline int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t thread_count() { return int64_t(gridDim.x) * blockDim.x; }

// f of packets, computed in T.
template <class T, class F, class Element, int n, class... Rest>
__device__ inline Packet<Element, n> apply(const F& f, const Packet<Element, n>& a, const Rest&... rest) {
  Packet<Element, n> y;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    y.lane[i] = static_cast<Element>(f(static_cast<T>(a.lane[i]), static_cast<T>(rest.lane[i])...));
  }
  return y;
}

// Computes the first `packets` packets, then the remaining elements: a short tail, or all of them if packets = 0.
template <class T, class F, class Element, class... In>
__global__ void __launch_bounds__(kMapThreads) map_dense_kernel(
    F f, int64_t n, int64_t packets, Element* out, const In*... in
) {
  constexpr int kSize = kPacket<Element>;
  for (int64_t i = thread_index(); i < packets; i += thread_count()) {
    store(out + i * kSize, apply<T>(f, load<kSize>(in + i * kSize)...));
  }
  for (int64_t i = packets * kSize + thread_index(); i < n; i += thread_count()) {
    store(out + i, apply<T>(f, load<1>(in + i)...));
  }
}

// Neighboring threads take neighbors in the innermost dimension.
template <class T, class Element, class F, size_t... k>
__global__ void __launch_bounds__(
    kMapThreads
) map_strided_kernel(F f, MapOperands operands, MapLayout layout, std::index_sequence<k...>) {
  for (int64_t i = thread_index(); i < operands.n; i += thread_count()) {
    int64_t offset[1 + sizeof...(k)] = {}, rest = i;
    for (int d = 0; d < layout.dims; ++d) {
      const int64_t index = rest % layout.sizes[d];
      rest /= layout.sizes[d];
      for (size_t j = 0; j < 1 + sizeof...(k); ++j) {
        offset[j] += index * layout.strides[j][d];
      }
    }
    const auto y = apply<T>(f, load<1>(static_cast<const Element*>(operands.in[k]) + offset[1 + k])...);
    store(static_cast<Element*>(operands.out) + offset[0], y);
  }
}

template <class T, class F, class Element, class... In>
void map_dense(c10::Device device, const F& f, int64_t n, Element* out, const In*... in) {
  constexpr int kSize = kPacket<Element>;
  const bool aligned = starts_packet(out) && (starts_packet(in) && ...);
  const int64_t packets = aligned ? n / kSize : 0;
  const int64_t blocks = at::ceil_div<int64_t>(aligned ? at::ceil_div<int64_t>(n, kSize) : n, kMapThreads);
  launch(device, blocks, kMapThreads, map_dense_kernel<T, F, Element, In...>, f, n, packets, out, in...);
}

template <class T, int inputs, class F>
void map(c10::Device device, const F& f, const MapOperands& operands) {
  with_elements<T>(operands.type, [&](auto zero) {
    using Element = decltype(zero);
    [&]<size_t... k>(std::index_sequence<k...> indices) {
      if (operands.layout != nullptr) {
        const int64_t blocks = at::ceil_div<int64_t>(operands.n, kMapThreads);
        const auto kernel = map_strided_kernel<T, Element, F, k...>;
        launch(device, blocks, kMapThreads, kernel, f, operands, *operands.layout, indices);
      } else {
        auto* const out = static_cast<Element*>(operands.out);
        map_dense<T>(device, f, operands.n, out, static_cast<const Element*>(operands.in[k])...);
      }
    }(std::make_index_sequence<inputs>());
  });
}

}  // namespace torchnotes
