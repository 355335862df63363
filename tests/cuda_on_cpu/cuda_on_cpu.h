// The words of CUDA for an ordinary C++ compiler: kernels run on the CPU, one block after the other, a block's threads
// as fibers that take turns at __syncthreads and at warp shuffles. The launches run them in four orders by turns, so
// that a missing barrier changes a result. A barrier that some thread never reaches is an error.
#pragma once

#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __shared__ static  // one block at a time
#define __launch_bounds__(...)

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
extern Index threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

void run(unsigned blocks, unsigned threads, const std::function<void()>& kernel);

// Hands over a value and returns the one of another lane of the warp.
const void* exchange(unsigned mask, const void* value, size_t bytes, unsigned lane);
unsigned lane();

template <class T>
T exchange(unsigned mask, const T& value, unsigned lane) {
  static_assert(std::is_arithmetic_v<T>, "the types that CUDA shuffles");
  T received;
  std::memcpy(&received, exchange(mask, &value, sizeof(T), lane), sizeof(T));
  return received;
}

}  // namespace cuda_on_cpu

void __syncthreads();

template <class T>
T __shfl_sync(unsigned mask, const T& value, unsigned lane) {
  return cuda_on_cpu::exchange(mask, value, lane % 32);
}

template <class T>
T __shfl_xor_sync(unsigned mask, const T& value, unsigned distance) {
  return cuda_on_cpu::exchange(mask, value, cuda_on_cpu::lane() ^ distance);
}

template <class T>
T __shfl_down_sync(unsigned mask, const T& value, unsigned distance) {
  const unsigned lane = cuda_on_cpu::lane() + distance;
  return cuda_on_cpu::exchange(mask, value, lane < 32 ? lane : cuda_on_cpu::lane());
}
