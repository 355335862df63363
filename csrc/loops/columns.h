// The traversals of columns, for the device that is compiled for: reduce_columns, map_columns and transform_columns.
#pragma once

#ifdef TORCHNOTES_SCALAR_ONLY
#include "loops/cuda/columns.cuh"
#else
#include "loops/cpu/columns.h"
#endif
