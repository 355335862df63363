// The traversals of rows that take turns segment by segment, for the device that is compiled for: reduce_segments,
// map_segments, transform_segments and reduce_and_map_segments.
#pragma once

#ifdef TORCHNOTES_SCALAR_ONLY
#include "loops/cuda/segments.cuh"
#else
#include "loops/cpu/segments.h"
#endif
