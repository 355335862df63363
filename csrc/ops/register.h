// TORCHNOTES_OPERATORS(m) { m.impl(...); ... } registers operators for every device that has kernels.
#pragma once

#include <torch/library.h>

#ifdef TORCHNOTES_WITH_CUDA
#define TORCHNOTES_CUDA_OPERATORS \
  TORCH_LIBRARY_IMPL(torchnotes, CUDA, m) { implement_operators(m); }
#else
#define TORCHNOTES_CUDA_OPERATORS
#endif

#define TORCHNOTES_OPERATORS(m)                                      \
  static void implement_operators(torch::Library& m);                \
  TORCH_LIBRARY_IMPL(torchnotes, CPU, m) { implement_operators(m); } \
  TORCHNOTES_CUDA_OPERATORS                                          \
  static void implement_operators(torch::Library& m)
