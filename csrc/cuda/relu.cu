#include "map.cuh"

#include "../operators/relu.h"
