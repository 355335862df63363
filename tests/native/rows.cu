#include "../../csrc/cuda/columns.cuh"

#include "operators.h"
