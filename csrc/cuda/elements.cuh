// The driver of elementwise operations whose operands may broadcast, with the interface of cpu/elements.h.
//
// The order of additions is fixed by the shape: a block adds up a piece of a fixed size, and one block adds up the
// pieces. Nothing synchronizes with the device.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/ceil_div.h>
#include <ATen/ops/empty.h>

#include "../broadcast.h"
#include "../formulas/weighted.h"
#include "map.cuh"
#include "rows.cuh"

namespace torchnotes {
namespace {

constexpr int64_t kPiece = 16384;  // elements

inline at::Tensor empty_like_dense(const at::Tensor& x) { return at::empty_like(x, dense_format(x)); }

// The elements [i, i + n), in a single access if they are contiguous.
template <int n, class T>
__device__ inline Packet<T, n> load(const Broadcast<T>& x, int64_t i) {
  const T* p = x.data + x.place(i);
  if (x.repeats == 1 && i + n <= x.count && reinterpret_cast<uintptr_t>(p) % sizeof(Packet<T, n>) == 0) {
    return load<n>(p);
  }
  Packet<T, n> packet;
#pragma unroll
  for (int k = 0; k < n; ++k) {
    packet.lane[k] = x.data[x.place(i + k)];
  }
  return packet;
}

template <int n, class F, class scalar_t, class... T>
__device__ inline void map_packet(const F& f, scalar_t* out, const Packet<T, n>&... in) {
  using acc_t = at::opmath_type<scalar_t>;
  Packet<scalar_t, n> y;
#pragma unroll
  for (int k = 0; k < n; ++k) {
    y.lane[k] = static_cast<scalar_t>(f(static_cast<acc_t>(in.lane[k])...));
  }
  store(out, y);
}

template <class Make, class scalar_t, class... T>
__global__ void __launch_bounds__(kMapThreads) map_elements_kernel(
    Make make, int64_t n, scalar_t* out, Broadcast<T>... in
) {
  constexpr int kSize = kPacket<scalar_t>;
  const auto f = make();
  for (int64_t i = thread_index() * kSize; i < n; i += thread_count() * kSize) {
    if (i + kSize <= n) {
      map_packet<kSize>(f, out + i, load<kSize>(in, i)...);
    } else {
      for (int64_t j = i; j < n; ++j) {
        map_packet<1>(f, out + j, load<1>(in, j)...);
      }
    }
  }
}

// make() returns F. Each thread calls it, because F may depend on numbers on the device.
template <class Make, class scalar_t, class... T>
void map_elements(c10::Device device, const Make& make, int64_t n, scalar_t* out, const Broadcast<T>&... in) {
  const int64_t blocks = at::ceil_div<int64_t>(n, kMapThreads * kPacket<scalar_t>);
  launch(device, blocks, kMapThreads, map_elements_kernel<Make, scalar_t, T...>, make, n, out, in...);
}

template <class acc_t, int n, class F, class... T>
__device__ inline void add_packet(const F& f, Weighted<acc_t>& sum, const Packet<T, n>&... in) {
#pragma unroll
  for (int k = 0; k < n; ++k) {
    sum.merge(f(static_cast<acc_t>(in.lane[k])...));
  }
}

template <int n, class F, class acc_t, class... T>
__global__ void __launch_bounds__(kRowThreads) sum_pieces_kernel(
    F f, int64_t elements, Weighted<double>* pieces, Weighted<acc_t> nothing, Broadcast<T>... in
) {
  for (int64_t piece = blockIdx.x; piece * kPiece < elements; piece += gridDim.x) {
    const int64_t begin = piece * kPiece;
    const int64_t end = elements - begin < kPiece ? elements : begin + kPiece;
    Weighted<acc_t> sum = nothing;
    for (int64_t i = begin + int64_t(threadIdx.x) * n; i < end; i += int64_t(blockDim.x) * n) {
      if (i + n <= end) {
        add_packet<acc_t, n>(f, sum, load<n>(in, i)...);
      } else {
        for (int64_t j = i; j < end; ++j) {
          add_packet<acc_t, 1>(f, sum, load<1>(in, j)...);
        }
      }
    }
    sum = merge_block<acc_t>(sum, nothing);
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

// Calls finish(sum) on the device with the sum of the Weighted values F(a_i, b_i, ...).
template <class F, class Finish, class First, class... T>
void sum_elements(
    c10::Device device,
    const F& f,
    const Finish& finish,
    int64_t n,
    const Broadcast<First>& first,
    const Broadcast<T>&... in
) {
  using acc_t = at::opmath_type<First>;
  const int64_t count = at::ceil_div(n, kPiece);
  const at::Tensor memory = at::empty({count, 2}, at::TensorOptions(device).dtype(at::kDouble));
  auto* const pieces = reinterpret_cast<Weighted<double>*>(memory.mutable_data_ptr<double>());
  const auto kernel = sum_pieces_kernel<kPacket<First>, F, acc_t, First, T...>;
  launch(device, count, kRowThreads, kernel, f, n, pieces, Weighted<acc_t>{0, 0}, first, in...);
  launch(device, 1, kRowThreads, finish_kernel<Finish>, pieces, count, finish);
}

}  // namespace
}  // namespace torchnotes
