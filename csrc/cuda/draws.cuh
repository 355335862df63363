// The driver of random numbers, with the interface of cpu/draws.h. Each thread generates the draws of one block of
// words; neighboring threads write neighboring elements.
#pragma once

#include "../keys.h"
#include "map.cuh"

namespace torchnotes {
namespace {

// A single key on the CPU is passed by value, so that nothing is copied or synchronized. Other keys are read on the
// device.
struct DeviceKeys {
  const int64_t* data;
  Key only;

  __device__ Key operator[](int64_t part) const {
    return data == nullptr ? only : Key{uint64_t(data[2 * part]), uint64_t(data[2 * part + 1])};
  }
};

__device__ inline Bits<float> bits_of(const Block<uint64_t>& block, int i, float) { return {uint32_t(block.word[i])}; }
__device__ inline Bits<double> bits_of(const Block<uint64_t>& block, int i, double) {
  return {uint32_t(block.word[2 * i]), uint32_t(block.word[2 * i + 1])};
}

struct Fill {
  template <class scalar_t>
  __device__ void operator()(scalar_t* out, const scalar_t*, at::opmath_type<scalar_t> draw) const {
    *out = static_cast<scalar_t>(draw);
  }
};

struct Multiply {
  template <class scalar_t>
  __device__ void operator()(scalar_t* out, const scalar_t* in, at::opmath_type<scalar_t> draw) const {
    *out = static_cast<scalar_t>(static_cast<at::opmath_type<scalar_t>>(*in) * draw);
  }
};

template <class Store, class Draw, class scalar_t>
__global__ void __launch_bounds__(kMapThreads) draws_kernel(
    Store store,
    Draw draw,
    DeviceKeys keys,
    Numbering numbering,
    int64_t rows,
    int64_t blocks,
    int64_t size,
    scalar_t* out,
    const scalar_t* in
) {
  using T = at::opmath_type<scalar_t>;
  constexpr int kEach = 4 * sizeof(uint32_t) / sizeof(T);  // elements per block
  constexpr int kElements = kEach * kPairDistance;         // elements per group
  for (int64_t i = thread_index(); i < rows * blocks; i += thread_count()) {
    const int64_t row = i / blocks, start = numbering.start(row);
    const int64_t number = start / kElements * kPairDistance + i % blocks;
    const int64_t first =
        number / kPairDistance * kElements + number % kPairDistance - start;  // its first element in the row
    const auto block = philox(keys[numbering.part(row)], uint64_t(number), uint64_t(number) >> 32);
    const auto put = [&](int64_t element, T value) {
      if (element >= 0 && element < size) {
        store(out + row * size + element, in + row * size + element, value);
      }
    };
#pragma unroll
    for (int k = 0; k < kEach; k += 2) {
      const Pair<T> pair = draw(bits_of(block, k, T()), bits_of(block, k + 1, T()));
      put(first + k * kPairDistance, pair.first);
      put(first + (k + 1) * kPairDistance, pair.second);
    }
  }
}

template <class Store, class Draw>
void for_each_draw(
    const Store& store, const Draw& draw, const Parts& parts, const at::Tensor& out, const at::Tensor& in
) {
  at::Tensor keys = parts.keys;
  DeviceKeys of_parts{};
  if (keys.is_cpu() && keys.numel() == 2) {
    const int64_t* const key = keys.const_data_ptr<int64_t>();
    of_parts.only = {uint64_t(key[0]), uint64_t(key[1])};
  } else {
    keys = keys.to(out.device());
    of_parts.data = keys.const_data_ptr<int64_t>();
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, out.scalar_type(), "torchnotes::draws", [&] {
    constexpr int64_t kElements =
        4 * kPairDistance * sizeof(uint32_t) / sizeof(at::opmath_type<scalar_t>);  // per group
    const int64_t before = parts.numbering.max_skipped(kElements);
    const int64_t blocks = at::ceil_div(before + parts.size, kElements) * kPairDistance;  // per row
    launch(
        out.device(),
        at::ceil_div<int64_t>(parts.count * blocks, kMapThreads),
        kMapThreads,
        draws_kernel<Store, Draw, scalar_t>,
        store,
        draw,
        of_parts,
        parts.numbering,
        parts.count,
        blocks,
        parts.size,
        out.mutable_data_ptr<scalar_t>(),
        in.const_data_ptr<scalar_t>()
    );
  });
}

}  // namespace
}  // namespace torchnotes
