// Launches every kernel, on the device of its operands and torch's current stream there.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace torchnotes {

constexpr int kWarp = 32;
constexpr int64_t kMaxBlocks = 4096;  // several waves on the largest device

// Kernels use grid-stride loops, so that a launch may have fewer blocks than requested.
template <class... Parameters, class... Arguments>
void launch(
    c10::Device device, int64_t blocks, int threads, void (*kernel)(Parameters...), const Arguments&... arguments
) {
  if (blocks == 0) {
    return;
  }
  const c10::cuda::CUDAGuard guard(device);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(std::min(blocks, kMaxBlocks)));
  config.blockDim = dim3(threads);
  config.stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Uninitialized memory for Ts. Kernels that are launched later may reuse it once it is freed.
template <class T>
class Scratch {
 public:
  Scratch(c10::Device device, int64_t count) {
    const c10::cuda::CUDAGuard guard(device);
    memory_ = c10::cuda::CUDACachingAllocator::get()->allocate(count * sizeof(T));
  }
  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  c10::DataPtr memory_;
};

}  // namespace torchnotes
