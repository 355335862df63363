// The elementwise driver, with the interface of cpu/map.h: map(F, a, b, ...) computes F(a_i, b_i, ...) for every
// element, map_(F, a) works in place.
//
// Dense operands of one layout go through packets. Others go through at::TensorIterator, which orders the dimensions so
// that neighboring threads access neighboring addresses.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/TensorIterator.h>
#include <ATen/ceil_div.h>
#include <ATen/cuda/detail/OffsetCalculator.cuh>

#include <array>
#include <utility>

#include "allocate.cuh"
#include "launch.cuh"
#include "packet.cuh"

namespace torchnotes {
namespace {

constexpr int kMapThreads = 256;

__device__ inline int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t thread_count() { return int64_t(gridDim.x) * blockDim.x; }

// Computes the first `packets` packets, then the remaining elements: a short tail, or all of them if packets = 0.
template <class F, class scalar_t, class... In>
__global__ void __launch_bounds__(kMapThreads) dense_kernel(
    F f, int64_t n, int64_t packets, scalar_t* out, const In*... in
) {
  constexpr int kSize = kPacket<scalar_t>;
  for (int64_t i = thread_index(); i < packets; i += thread_count()) {
    store(out + i * kSize, apply(f, load<kSize>(in + i * kSize)...));
  }
  for (int64_t i = packets * kSize + thread_index(); i < n; i += thread_count()) {
    store(out + i, apply(f, load<1>(in + i)...));
  }
}

template <class F, class scalar_t, class... In>
void map_dense(const F& f, const at::Tensor& output, scalar_t* out, const In*... in) {
  constexpr int kSize = kPacket<scalar_t>;
  const int64_t n = output.numel();
  const bool aligned = starts_packet(out) && (starts_packet(in) && ...);
  const int64_t packets = aligned ? n / kSize : 0;
  const int64_t blocks = at::ceil_div<int64_t>(aligned ? at::ceil_div<int64_t>(n, kSize) : n, kMapThreads);
  launch(output.device(), blocks, kMapThreads, dense_kernel<F, scalar_t, In...>, f, n, packets, out, in...);
}

// data[0] is the output, data[1...] are the inputs.
template <class F, class scalar_t, class Offsets, size_t... I>
__global__ void __launch_bounds__(kMapThreads) strided_kernel(
    F f, int64_t n, Offsets offsets, std::array<scalar_t*, 1 + sizeof...(I)> data, std::index_sequence<I...>
) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    const auto offset = offsets.get(static_cast<uint32_t>(i));
    store(data[0] + offset[0], apply(f, load<1>(data[I + 1] + offset[I + 1])...));
  }
}

template <class scalar_t, class F, size_t... I>
void map_strided(const F& f, at::TensorIteratorBase& iterator, std::index_sequence<I...> inputs) {
  constexpr int kOperands = 1 + sizeof...(I);
  if (iterator.numel() == 0) {
    return;  // the offset calculator divides by the sizes
  }
  for (auto& part : iterator.with_32bit_indexing()) {
    const auto offsets = make_element_offset_calculator<kOperands>(part);
    const std::array<scalar_t*, kOperands> data = {
        static_cast<scalar_t*>(part.data_ptr(0)), static_cast<scalar_t*>(part.data_ptr(I + 1))...
    };
    const int64_t n = part.numel();
    const auto kernel = strided_kernel<F, scalar_t, OffsetCalculator<kOperands>, I...>;
    launch(part.device(0), at::ceil_div<int64_t>(n, kMapThreads), kMapThreads, kernel, f, n, offsets, data, inputs);
  }
}

template <class F, class... Rest>
at::Tensor map(const F& f, const at::Tensor& first, const Rest&... rest) {
  (check_same(first, rest), ...);
  at::Tensor out;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, first.scalar_type(), "torchnotes::map", [&] {
    if (same_dense_layout(first, rest...)) {
      out = empty_like_dense(first);
      map_dense(
          f,
          out,
          out.mutable_data_ptr<scalar_t>(),
          first.const_data_ptr<scalar_t>(),
          rest.template const_data_ptr<scalar_t>()...
      );
    } else {
      auto iterator = result_iterator(first, rest...);
      out = iterator.output();
      map_strided<scalar_t>(f, iterator, std::make_index_sequence<1 + sizeof...(Rest)>{});
    }
  });
  return out;
}

template <class F>
void map_(const F& f, at::Tensor& self) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, self.scalar_type(), "torchnotes::map_", [&] {
    if (same_dense_layout(self)) {
      map_dense(f, self, self.mutable_data_ptr<scalar_t>(), self.const_data_ptr<scalar_t>());
    } else {
      auto iterator = at::TensorIterator::unary_op(self, self);  // raises if the tensor overlaps itself
      map_strided<scalar_t>(f, iterator, std::index_sequence<0>{});
    }
  });
}

}  // namespace
}  // namespace torchnotes
