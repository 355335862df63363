#include "map.cuh"

#include "../operators/leaky_relu.h"
