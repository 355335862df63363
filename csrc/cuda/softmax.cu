#include "rows.cuh"

#include "../operators/softmax.h"
