// What kernels use of the CUDA runtime, for an ordinary C++ compiler. Blocks run one after the other, with their
// threads as fibers that switch at __syncthreads and at warp shuffles. Launches alternate between four orders of
// threads, so that a missing barrier changes a result. A barrier that some thread never reaches is an error.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __shared__ static  // one block at a time
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

// Runs a kernel, with few blocks, so that even small tensors take several rounds of a grid-stride loop.
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

enum cudaError_t { cudaSuccess };
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments
) {
  cuda_on_cpu::run(config->gridDim.x, config->blockDim.x, [&] { kernel(arguments...); });
  return cudaSuccess;
}
