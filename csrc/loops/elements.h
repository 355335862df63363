// Elements of operands that broadcast, and the traversals of them for the device that is compiled for: map_elements and
// sum_elements. In the memory order of a dense tensor, element i of another operand is data[(i / repeats) % count]:
//
//   of the same size                                       repeats = 1,    count = n
//   one number for all                                     repeats = 1,    count = 1
//   a weight per column (C) of a matrix (R, C)             repeats = 1,    count = C
//   a target per row (R, 1)                                repeats = C,    count = R
//   a weight per channel (C, 1, 1) of images (N, C, H, W)  repeats = H W,  count = C
#pragma once

#ifdef TORCHNOTES_SCALAR_ONLY
#include "loops/cuda/elements.cuh"
#else
#include "loops/cpu/elements.h"
#endif
