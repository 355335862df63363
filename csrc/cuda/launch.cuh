// Launches every kernel, on the device of its tensors and torch's current stream there.
#pragma once

#include <c10/core/Device.h>

#include <algorithm>
#include <cstdint>

#ifdef TORCHNOTES_CUDA_ON_CPU  // the tests run the kernels on the CPU, without a GPU
#include <cuda_runtime.h>
#define TORCHNOTES_DEVICE CPU
#else
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#define TORCHNOTES_DEVICE CUDA
#endif

namespace torchnotes {
namespace {

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
  const auto grid = static_cast<unsigned>(std::min(blocks, kMaxBlocks));
#ifdef TORCHNOTES_CUDA_ON_CPU
  cuda_on_cpu::run(grid, threads, [&] { kernel(arguments...); });
#else
  const c10::cuda::CUDAGuard guard(device);
  kernel<<<grid, threads, 0, c10::cuda::getCurrentCUDAStream()>>>(arguments...);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
#endif
}

}  // namespace
}  // namespace torchnotes
