#include "../../csrc/cuda/rows.cuh"

#define DEVICE TORCHNOTES_DEVICE
#define ON(tensor) (tensor).device(),
#include "operators.h"
