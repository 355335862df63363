#include "../../csrc/cuda/rows.cuh"

#include "operators.h"
