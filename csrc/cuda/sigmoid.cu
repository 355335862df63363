#include "map.cuh"

#include "../operators/sigmoid.h"
