// The traversals of rows, with the interface of loops/cpu/rows.h: one block per row, whose threads read and write
// packets of 16 bytes, or of one element if the alignment or the length of an operand requires it. Interleaved rows
// have one thread each instead: lanes.cuh.
#pragma once

#include <ATen/ceil_div.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <type_traits>

#include "loops/cuda/lanes.cuh"
#include "loops/cuda/launch.cuh"
#include "loops/cuda/packet.cuh"
#include "loops/cuda/typed.cuh"
#include "loops/row_shape.h"

namespace torchnotes {

constexpr int kRowThreads = 512;

// Shared memory for a T that may not be trivially constructible.
template <class T>
struct Uninitialized {
  alignas(T) unsigned char bytes[sizeof(T)];
  __device__ T& get() { return *reinterpret_cast<T*>(bytes); }
};

template <class T, class State>
__device__ inline State from_lane_above(const State& state, int distance) {
  static_assert(sizeof(State) % sizeof(T) == 0, "a State consists of Ts");
  T members[sizeof(State) / sizeof(T)];
  std::memcpy(members, &state, sizeof(State));
#pragma unroll
  for (T& member : members) {
    member = __shfl_down_sync(0xffffffff, member, distance);
  }
  State other = state;
  std::memcpy(&other, members, sizeof(State));
  return other;
}

// Merges the states of a warp into its first lane.
template <class T, class State>
__device__ inline State merge_warp(State state) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    state.merge(from_lane_above<T>(state, distance));
  }
  return state;
}

// Merges the states of a block into its first thread.
template <class T, class State>
__device__ inline State merge_block(State state, const State& empty) {
  __shared__ Uninitialized<State> warps[kRowThreads / kWarp];
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  state = merge_warp<T>(state);
  __syncthreads();  // all threads have read the previous row
  if (lane == 0) {
    warps[warp].get() = state;
  }
  __syncthreads();
  if (warp == 0) {
    state = merge_warp<T>(lane < blockDim.x / kWarp ? warps[lane].get() : empty);
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
template <class T, int n, class Op, class... In>
__device__ inline StateOf<Op, T> reduce_row(const RowShape& shape, const Op& op, int64_t row, const Typed<In>&... in) {
  const StateOf<Op, T> empty = op.template start<T>(row);
  const auto constants = row_constants(op, row);
  StateOf<Op, T> state = empty;
  for_packets<n>(shape, [&](int64_t segment, int64_t offset) {
    const auto add = [&](const Packet<In, n>&... x) {
#pragma unroll
      for (int i = 0; i < n; ++i) {
        add_elements(op, state, constants, static_cast<T>(x.lane[i])...);
      }
    };
    add(load<n>(in.elements() + in.offset(row, segment) + offset)...);
  });
  return merge_block<T>(state, empty);
}

template <class T, int n, class Op, class Formula, class Out, class... In>
__device__ inline void map_row(
    const RowShape& shape, const Op& op, const Formula& f, int64_t row, const Typed<Out>& out, const Typed<In>&... in
) {
  for_packets<n>(shape, [&](int64_t segment, int64_t offset) {
    const auto value = [&](const Packet<In, n>&... x) {
      Packet<Out, n> y;
#pragma unroll
      for (int i = 0; i < n; ++i) {
        y.lane[i] = static_cast<Out>(op.value(f, static_cast<T>(x.lane[i])...));
      }
      return y;
    };
    const auto y = value(load<n>(in.elements() + in.offset(row, segment) + offset)...);
    store(out.elements() + out.offset(row, segment) + offset, y);
  });
  __syncthreads();
  if (threadIdx.x == 0) {
    patch_target(op, row, f, 0);
  }
}

template <class T, int n, class Op, class... In>
__global__ void __launch_bounds__(kRowThreads) reduce_kernel(RowShape shape, Op op, Typed<In>... in) {
  for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
    const auto all = reduce_row<T, n>(shape, op, row, in...);
    if (threadIdx.x == 0) {
      op.finish(row, all);
    }
  }
}

template <class T, int n, class Op, class Out, class... In>
__global__ void __launch_bounds__(kRowThreads) map_kernel(RowShape shape, Op op, Typed<Out> out, Typed<In>... in) {
  for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
    const auto formula = op.formula(row);
    __syncthreads();  // all threads have read what patch_target may write
    map_row<T, n>(shape, op, formula, row, out, in...);
  }
}

template <class T, int n, class Op, class Out, class... In>
__global__ void __launch_bounds__(kRowThreads) transform_kernel(
    RowShape shape, Op op, Typed<Out> out, Typed<In>... in
) {
  using Formula = decltype(op.finish(0, op.template start<T>(0)));
  __shared__ Uninitialized<Formula> formula;
  for (int64_t row = blockIdx.x; row < shape.rows; row += gridDim.x) {
    const auto all = reduce_row<T, n>(shape, op, row, in...);
    if (threadIdx.x == 0) {
      new (formula.bytes) Formula(op.finish(row, all));
    }
    __syncthreads();
    const Formula f = formula.get();
    map_row<T, n>(shape, op, f, row, out, in...);
  }
}

template <class Element>
bool has_packets(const RowShape& shape, const Typed<Element>& x) {
  constexpr int kSize = kPacket<Element>;
  return starts_packet(x.data) && x.row_stride % kSize == 0 && x.segment_stride % kSize == 0 &&
         shape.length % kSize == 0;
}

// Calls f(n, threads) with the packet size n, a constant, that suits all operands.
template <class F, class... Element>
void with_packets(const RowShape& shape, const F& f, const Typed<Element>&... operands) {
  const auto call = [&](auto n) {
    const int64_t packets = shape.elements() / n;
    f(n, static_cast<int>(std::clamp<int64_t>(at::round_up<int64_t>(packets, kWarp), kWarp, kRowThreads)));
  };
  if ((has_packets(shape, operands) && ...)) {
    call(std::integral_constant<int, kPacket<Element...>>{});
  } else {
    call(std::integral_constant<int, 1>{});
  }
}

template <class T, class Op, class... In>
void reduce_rows(c10::Device device, const RowShape& shape, const Op& op, const In&... inputs) {
  const auto run = [&]<class... E>(const Typed<E>&... in) {
    if (shape.interleaved > 1) {
      launch_lanes(device, shape, reduce_lanes_kernel<T, Op, E...>, op, in...);
      return;
    }
    const auto by_packets = [&](auto n, int threads) {
      launch(device, shape.rows, threads, reduce_kernel<T, n(), Op, E...>, shape, op, in...);
    };
    with_packets(shape, by_packets, in...);
  };
  with_types<T, Op>(run, inputs...);
}

template <class T, class Op, class... In>
void map_rows(c10::Device device, const RowShape& shape, const Op& op, const RowOperand& output, const In&... inputs) {
  const auto run = [&]<class... E>(const Typed<E>&... operands) {
    if (shape.interleaved > 1) {
      launch_lanes(device, shape, map_lanes_kernel<T, Op, E...>, op, operands...);
      return;
    }
    const auto by_packets = [&](auto n, int threads) {
      launch(device, shape.rows, threads, map_kernel<T, n(), Op, E...>, shape, op, operands...);
    };
    with_packets(shape, by_packets, operands...);
  };
  with_types<T, Op>(run, output, inputs...);
}

template <class T, class Op, class... In>
void transform_rows(
    c10::Device device, const RowShape& shape, const Op& op, const RowOperand& output, const In&... inputs
) {
  const auto run = [&]<class... E>(const Typed<E>&... operands) {
    if (shape.interleaved > 1) {
      launch_lanes(device, shape, transform_lanes_kernel<T, Op, E...>, op, operands...);
      return;
    }
    const auto by_packets = [&](auto n, int threads) {
      launch(device, shape.rows, threads, transform_kernel<T, n(), Op, E...>, shape, op, operands...);
    };
    with_packets(shape, by_packets, operands...);
  };
  with_types<T, Op>(run, output, inputs...);
}

}  // namespace torchnotes
