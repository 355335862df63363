// Random numbers, for the device that is compiled for: for_each_draw.
#pragma once

#ifdef TORCHNOTES_SCALAR_ONLY
#include "loops/cuda/draws.cuh"
#else
#include "loops/cpu/draws.h"
#endif
