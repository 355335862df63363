// CUDA's keywords for an ordinary C++ compiler: kernels run on the CPU, one block after the other, with the threads of
// a block as fibers that switch at __syncthreads and at warp shuffles. Launches alternate between four orders of
// threads, so that a missing barrier changes a result. A barrier that some thread never reaches is an error.
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

// Provides a value to the warp and returns that of another lane.
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
