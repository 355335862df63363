// The elementwise traversal, for the device that is compiled for: map<T, inputs>(device, f, operands).
#pragma once

#ifdef TORCHNOTES_SCALAR_ONLY
#include "loops/cuda/map.cuh"
#else
#include "loops/cpu/map.h"
#endif
