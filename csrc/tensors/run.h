// Calls the kernel of a device (kernels/kernel.h).
#pragma once

#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <string>
#include <typeinfo>

namespace torchnotes {

struct KernelsByDevice {
  void (*cpu)() = nullptr;
  void (*cuda)() = nullptr;
};

// The kernels with these arguments, identified by the name of their type. The reference stays valid.
KernelsByDevice& kernels_named(const char* name);

// Loads a library of kernels for the CPU, which replace those of libraries before. Throws c10::Error if it is none, or
// if it was built from other sources.
void load_kernels(const std::string& path);

template <class Arguments>
void run(c10::Device device, const Arguments& arguments) {
  static const KernelsByDevice& kernels = kernels_named(typeid(Arguments).name());
  void (*const kernel)() = device.is_cuda() ? kernels.cuda : kernels.cpu;
  TORCH_INTERNAL_ASSERT(kernel, "no kernel ", typeid(Arguments).name());
  reinterpret_cast<void (*)(c10::Device, const Arguments&)>(kernel)(device, arguments);
}

}  // namespace torchnotes
