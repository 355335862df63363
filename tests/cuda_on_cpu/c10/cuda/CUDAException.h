#pragma once

#include <c10/util/Exception.h>
#include <cuda_runtime.h>

#define C10_CUDA_CHECK(expression) TORCH_CHECK((expression) == cudaSuccess)
