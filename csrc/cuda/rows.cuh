// The row drivers, with the interface of cpu/rows.h: one block per row, whose threads read and write packets of 16
// bytes, or of one element if the alignment or the length of an operand requires it. Interleaved rows have one thread
// each instead: lanes.cuh.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/ceil_div.h>

#include <cstring>
#include <new>
#include <type_traits>

#include "allocate.cuh"
#include "lanes.cuh"

namespace torchnotes {
namespace {

constexpr int kRowThreads = 512;

// Shared memory for a T that may not be trivially constructible.
template <class T>
struct Uninitialized {
  alignas(T) unsigned char bytes[sizeof(T)];
  __device__ T& get() { return *reinterpret_cast<T*>(bytes); }
};

template <class acc_t, class State>
__device__ inline State from_lane_above(const State& state, int distance) {
  static_assert(sizeof(State) % sizeof(acc_t) == 0, "a State consists of Ts");
  acc_t members[sizeof(State) / sizeof(acc_t)];
  std::memcpy(members, &state, sizeof(State));
#pragma unroll
  for (acc_t& member : members) {
    member = __shfl_down_sync(0xffffffff, member, distance);
  }
  State other = state;
  std::memcpy(&other, members, sizeof(State));
  return other;
}

// Merges the states of a warp into its first lane.
template <class acc_t, class State>
__device__ inline State merge_warp(State state) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    state.merge(from_lane_above<acc_t>(state, distance));
  }
  return state;
}

// Merges the states of a block into its first thread.
template <class acc_t, class State>
__device__ inline State merge_block(State state, const State& empty) {
  __shared__ Uninitialized<State> warps[kRowThreads / kWarp];
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  state = merge_warp<acc_t>(state);
  __syncthreads();  // all threads have read the previous row
  if (lane == 0) {
    warps[warp].get() = state;
  }
  __syncthreads();
  if (warp == 0) {
    state = merge_warp<acc_t>(lane < blockDim.x / kWarp ? warps[lane].get() : empty);
  }
  return state;
}

// Calls f(segment, offset) for this thread's packets of a row: every blockDim.x-th. Updating the position incrementally
// avoids a division per packet.
template <int n, class F>
__device__ inline void for_packets(const RowShape& shape, const F& f) {
  const int64_t length = shape.length / n;
  if (length == 0) {
    return;
  }
  const int64_t segments = blockDim.x / length, packets = blockDim.x % length;
  int64_t segment = threadIdx.x / length, packet = threadIdx.x % length;
  while (segment < shape.segments) {
    f(segment, packet * n);
    segment += segments;
    packet += packets;
    if (packet >= length) {
      packet -= length;
      ++segment;
    }
  }
}

// The state of a row, in the first thread.
template <int n, class Op, class... In>
__device__ inline auto reduce_row(const RowShape& shape, const Op& op, int64_t row, const RowOperand<const In>&... in) {
  using acc_t = AccOf<In...>;
  const auto empty = op.template start<acc_t>(row);
  const auto constants = row_constants(op, row);
  auto state = empty;
  for_packets<n>(shape, [&](int64_t segment, int64_t offset) {
    const auto add = [&](const Packet<In, n>&... x) {
#pragma unroll
      for (int i = 0; i < n; ++i) {
        add_elements(op, state, constants, static_cast<acc_t>(x.lane[i])...);
      }
    };
    add(load<n>(in.at(row, segment) + offset)...);
  });
  return merge_block<acc_t>(state, empty);
}

template <int n, class Op, class Formula, class scalar_t, class... In>
__device__ inline void map_row(
    const RowShape& shape,
    const Op& op,
    const Formula& f,
    int64_t row,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  using acc_t = at::opmath_type<scalar_t>;
  for_packets<n>(shape, [&](int64_t segment, int64_t offset) {
    const auto value = [&](const Packet<In, n>&... x) {
      Packet<scalar_t, n> y;
#pragma unroll
      for (int i = 0; i < n; ++i) {
        y.lane[i] = static_cast<scalar_t>(op.value(f, static_cast<acc_t>(x.lane[i])...));
      }
      return y;
    };
    store(out.at(row, segment) + offset, value(load<n>(in.at(row, segment) + offset)...));
  });
  __syncthreads();
  if (threadIdx.x == 0) {
    patch_target(op, row, f, 0);
  }
}

template <int n, class Op, class... In>
__global__ void __launch_bounds__(kRowThreads) reduce_kernel(RowShape shape, Op op, RowOperand<const In>... in) {
  for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
    const auto all = reduce_row<n>(shape, op, row, in...);
    if (threadIdx.x == 0) {
      op.finish(row, all);
    }
  }
}

template <int n, class Op, class scalar_t, class... In>
__global__ void __launch_bounds__(kRowThreads) map_kernel(
    RowShape shape, Op op, RowOperand<scalar_t> out, RowOperand<const In>... in
) {
  for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
    const auto formula = op.formula(row);
    __syncthreads();  // all threads have read what patch_target may write
    map_row<n>(shape, op, formula, row, out, in...);
  }
}

template <int n, class Op, class scalar_t, class... In>
__global__ void __launch_bounds__(kRowThreads) transform_kernel(
    RowShape shape, Op op, RowOperand<scalar_t> out, RowOperand<const In>... in
) {
  using Formula = decltype(op.finish(0, op.template start<at::opmath_type<scalar_t>>(0)));
  __shared__ Uninitialized<Formula> formula;
  for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
    const auto all = reduce_row<n>(shape, op, row, in...);
    if (threadIdx.x == 0) {
      new (formula.bytes) Formula(op.finish(row, all));
    }
    __syncthreads();
    const Formula f = formula.get();
    map_row<n>(shape, op, f, row, out, in...);
  }
}

template <class T>
bool has_packets(const RowShape& shape, const RowOperand<T>& x) {
  constexpr int kSize = kPacket<std::remove_const_t<T>>;
  return starts_packet(x.data) && x.row_stride % kSize == 0 && x.segment_stride % kSize == 0 &&
         shape.length % kSize == 0;
}

// Calls f(n, threads) with the packet size n, a constant, that suits all operands: `most` or 1.
template <int most, class F, class... Operands>
void with_packets(const RowShape& shape, const F& f, const Operands&... operands) {
  const auto call = [&](auto n) {
    const int64_t packets = shape.segments * shape.length / n;
    f(n, static_cast<int>(std::clamp<int64_t>(at::round_up<int64_t>(packets, kWarp), kWarp, kRowThreads)));
  };
  if ((has_packets(shape, operands) && ...)) {
    call(std::integral_constant<int, most>{});
  } else {
    call(std::integral_constant<int, 1>{});
  }
}

template <class Op, class... In>
void reduce_rows(c10::Device device, const RowShape& shape, const Op& op, const RowOperand<const In>&... in) {
  if (shape.interleaved > 1) {
    launch_lanes(device, shape, reduce_lanes_kernel<Op, In...>, op, in...);
    return;
  }
  const auto run = [&](auto n, int threads) {
    launch(device, shape.rows, threads, reduce_kernel<n(), Op, In...>, shape, op, in...);
  };
  with_packets<kPacket<In...>>(shape, run, in...);
}

template <class Op, class scalar_t, class... In>
void map_rows(
    c10::Device device,
    const RowShape& shape,
    const Op& op,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  if (shape.interleaved > 1) {
    launch_lanes(device, shape, map_lanes_kernel<Op, scalar_t, In...>, op, out, in...);
    return;
  }
  const auto run = [&](auto n, int threads) {
    launch(device, shape.rows, threads, map_kernel<n(), Op, scalar_t, In...>, shape, op, out, in...);
  };
  with_packets<kPacket<scalar_t, In...>>(shape, run, out, in...);
}

template <class Op, class scalar_t, class... In>
void transform_rows(
    c10::Device device,
    const RowShape& shape,
    const Op& op,
    const RowOperand<scalar_t>& out,
    const RowOperand<const In>&... in
) {
  if (shape.interleaved > 1) {
    launch_lanes(device, shape, transform_lanes_kernel<Op, scalar_t, In...>, op, out, in...);
    return;
  }
  const auto run = [&](auto n, int threads) {
    launch(device, shape.rows, threads, transform_kernel<n(), Op, scalar_t, In...>, shape, op, out, in...);
  };
  with_packets<kPacket<scalar_t, In...>>(shape, run, out, in...);
}

}  // namespace
}  // namespace torchnotes
