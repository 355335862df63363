// The order of additions is fixed by the shape: a block adds up a piece of a fixed size, and one block adds up the
// pieces. Nothing synchronizes with the device.
#pragma once

#include <ATen/ceil_div.h>

#include <type_traits>
#include <utility>

#include "formulas/weighted.h"
#include "loops/broadcast.h"
#include "loops/cuda/launch.cuh"
#include "loops/cuda/packet.cuh"
#include "loops/cuda/rows.cuh"

namespace torchnotes {

constexpr int kElementThreads = 256;
constexpr int64_t kPiece = 16384;  // elements

// n elements from the i-th on, as Ts, in a single access if they are contiguous.
template <class Element, int n, class T>
__device__ inline Packet<T, n> load_operand(const BroadcastOperand& x, int64_t i) {
  const auto* const data = static_cast<const Element*>(x.data);
  const Element* const p = data + x.index(i);
  const bool contiguous =
      x.repeats == 1 && i + n <= x.count && reinterpret_cast<uintptr_t>(p) % sizeof(Packet<Element, n>) == 0;
  Packet<Element, n> given;
  if (contiguous) {
    given = load<n>(p);
  }
  Packet<T, n> packet;
#pragma unroll
  for (int k = 0; k < n; ++k) {
    packet.lane[k] = static_cast<T>(contiguous ? given.lane[k] : data[x.index(i + k)]);
  }
  return packet;
}

// The same for an operand of Elements or of Ts.
template <class Element, int n, class T>
__device__ inline Packet<T, n> load_as(const BroadcastOperand& x, int64_t i) {
  if constexpr (!std::is_same_v<Element, T>) {
    if (x.type == c10::CppTypeToScalarType<T>::value) {
      return load_operand<T, n, T>(x, i);
    }
  }
  return load_operand<Element, n, T>(x, i);
}

template <int n, class F, class Element, class T, class... Rest>
__device__ inline void map_packet(const F& f, Element* out, const Packet<T, n>& first, const Rest&... rest) {
  Packet<Element, n> y;
#pragma unroll
  for (int k = 0; k < n; ++k) {
    y.lane[k] = static_cast<Element>(f(first.lane[k], rest.lane[k]...));
  }
  store(out, y);
}

template <class T, class Make, class Element, size_t... I>
__global__ void __launch_bounds__(
    kElementThreads
) map_elements_kernel(Make make, ElementwiseInputs in, Element* out, std::index_sequence<I...>) {
  constexpr int kSize = kPacket<Element>;
  const auto f = make();
  const int64_t n = in.size, threads = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kSize; i < n; i += threads * kSize) {
    if (i + kSize <= n) {
      map_packet<kSize>(f, out + i, load_as<Element, kSize, T>(in.operands[I], i)...);
    } else {
      for (int64_t j = i; j < n; ++j) {
        map_packet<1>(f, out + j, load_as<Element, 1, T>(in.operands[I], j)...);
      }
    }
  }
}

// make() returns F. Each thread calls it, because F may depend on numbers on the device.
template <class T, int inputs, class Make>
void map_elements(c10::Device device, const Make& make, const ElementwiseInputs& in, c10::ScalarType type, void* out) {
  with_element_type(type, [&](auto zero) {
    using Element = decltype(zero);
    if constexpr (std::is_same_v<T, double> == std::is_same_v<Element, double>) {
      [&]<size_t... i>(std::index_sequence<i...> indices) {
        const int64_t blocks = at::ceil_div<int64_t>(in.size, kElementThreads * kPacket<Element>);
        const auto kernel = map_elements_kernel<T, Make, Element, i...>;
        launch(device, blocks, kElementThreads, kernel, make, in, static_cast<Element*>(out), indices);
      }(std::make_index_sequence<inputs>());
    }
  });
}

template <int n, class F, class T, class... Rest>
__device__ inline void add_packet(const F& f, Weighted<T>& sum, const Packet<T, n>& first, const Rest&... rest) {
#pragma unroll
  for (int k = 0; k < n; ++k) {
    sum.merge(f(first.lane[k], rest.lane[k]...));
  }
}

template <class T, class F, class Element, size_t... I>
__global__ void __launch_bounds__(kRowThreads) sum_pieces_kernel(
    F f, ElementwiseInputs in, Weighted<double>* pieces, Weighted<T> nothing, Element, std::index_sequence<I...>
) {
  constexpr int kSize = kPacket<Element>;
  for (int64_t piece = blockIdx.x; piece * kPiece < in.size; piece += gridDim.x) {
    const int64_t begin = piece * kPiece;
    const int64_t end = in.size - begin < kPiece ? in.size : begin + kPiece;
    Weighted<T> sum = nothing;
    for (int64_t i = begin + int64_t(threadIdx.x) * kSize; i < end; i += int64_t(blockDim.x) * kSize) {
      if (i + kSize <= end) {
        add_packet<kSize>(f, sum, load_as<Element, kSize, T>(in.operands[I], i)...);
      } else {
        for (int64_t j = i; j < end; ++j) {
          add_packet<1>(f, sum, load_as<Element, 1, T>(in.operands[I], j)...);
        }
      }
    }
    sum = merge_block<T>(sum, nothing);
    if (threadIdx.x == 0) {
      pieces[piece] = {double(sum.loss), double(sum.weight)};
    }
  }
}

template <class Finish>
__global__ void __launch_bounds__(kRowThreads) finish_kernel(
    const Weighted<double>* pieces, int64_t count, Finish finish
) {
  const Weighted<double> nothing{0, 0};
  Weighted<double> sum = nothing;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    sum.merge(pieces[i]);
  }
  sum = merge_block<double>(sum, nothing);
  if (threadIdx.x == 0) {
    finish(sum);
  }
}

// Calls finish(sum) on the device with the sum of the Weighted values F(x...). The first input has the type of all
// inputs, or of all that are not Ts.
template <class T, int inputs, class F, class Finish>
void sum_elements(c10::Device device, const F& f, const Finish& finish, const ElementwiseInputs& in) {
  const int64_t count = at::ceil_div(in.size, kPiece);
  const Scratch<Weighted<double>> scratch(device, count);
  Weighted<double>* const pieces = scratch.data();
  with_element_type(in.operands[0].type, [&](auto zero) {
    using Element = decltype(zero);
    if constexpr (std::is_same_v<T, double> == std::is_same_v<Element, double>) {
      [&]<size_t... i>(std::index_sequence<i...> indices) {
        const auto kernel = sum_pieces_kernel<T, F, Element, i...>;
        launch(device, count, kRowThreads, kernel, f, in, pieces, Weighted<T>{0, 0}, zero, indices);
      }(std::make_index_sequence<inputs>());
    }
  });
  launch(device, 1, kRowThreads, finish_kernel<Finish>, pieces, count, finish);
}

}  // namespace torchnotes
