// A kernel is a function of a struct of plain arguments, whose type identifies it. It is compiled once for every
// instruction set of the CPU, each into a library of its own, and once for CUDA, into _C.
#pragma once

#include <c10/core/Device.h>

#include <typeinfo>

namespace torchnotes {

struct Kernel {
  const char* name;
  void (*function)();
  const Kernel* next;
};

// The kernels of this library: a linked list.
inline const Kernel* first_kernel = nullptr;

template <class Arguments>
struct RegisterKernel : Kernel {
  explicit RegisterKernel(void (*function)(c10::Device, const Arguments&))
      : Kernel{typeid(Arguments).name(), reinterpret_cast<void (*)()>(function), first_kernel} {
    first_kernel = this;
  }
};

}  // namespace torchnotes
