#include "../../csrc/cuda/rows.cuh"

#define ON(tensor) (tensor).device(),
#include "operators.h"
