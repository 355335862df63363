#include "draws.cuh"

#include "../operators/trunc_normal.h"
