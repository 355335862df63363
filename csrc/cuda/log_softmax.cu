#include "rows.cuh"

#include "../operators/log_softmax.h"
