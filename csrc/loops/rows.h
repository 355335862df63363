// The traversals of rows, for the device that is compiled for: reduce_rows, map_rows and transform_rows.
#pragma once

#ifdef TORCHNOTES_SCALAR_ONLY
#include "loops/cuda/rows.cuh"
#else
#include "loops/cpu/rows.h"
#endif
