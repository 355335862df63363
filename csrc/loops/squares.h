// The norm of several arrays, for the device that is compiled for: norm_of_arrays.
#pragma once

#ifdef TORCHNOTES_SCALAR_ONLY
#include "loops/cuda/squares.cuh"
#else
#include "loops/cpu/squares.h"
#endif
