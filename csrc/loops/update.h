// Update rules, for the device that is compiled for: update.
#pragma once

#ifdef TORCHNOTES_SCALAR_ONLY
#include "loops/cuda/update.cuh"
#else
#include "loops/cpu/update.h"
#endif
