#include "tensors/run.h"

#include <ATen/DynamicLibrary.h>

#include <unordered_map>

#include "kernels/kernel.h"

#ifdef TORCHNOTES_WITH_CUDA
extern "C" const torchnotes::Kernel* torchnotes_kernels();
#endif

namespace torchnotes {
namespace {

std::unordered_map<std::string, KernelsByDevice>& all_kernels() {
  static std::unordered_map<std::string, KernelsByDevice> kernels;
  return kernels;
}

}  // namespace

KernelsByDevice& kernels_named(const char* name) { return all_kernels()[name]; }

void load_kernels(const std::string& path) {
  at::DynamicLibrary library(path.c_str(), nullptr, /*leak_handle=*/true);
  const auto kernels = reinterpret_cast<const Kernel* (*)()>(library.sym("torchnotes_kernels"));
  for (const Kernel* kernel = kernels(); kernel != nullptr; kernel = kernel->next) {
    kernels_named(kernel->name).cpu = kernel->function;
  }
#ifdef TORCHNOTES_WITH_CUDA
  for (const Kernel* kernel = torchnotes_kernels(); kernel != nullptr; kernel = kernel->next) {
    kernels_named(kernel->name).cuda = kernel->function;
  }
#endif
}

}  // namespace torchnotes
