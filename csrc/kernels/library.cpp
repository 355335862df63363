// What a library of kernels exports.
#include "kernels/kernel.h"

extern "C" [[gnu::visibility("default")]] const torchnotes::Kernel* torchnotes_kernels() {
  return torchnotes::first_kernel;
}
