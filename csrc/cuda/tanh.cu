#include "map.cuh"

#include "../operators/tanh.h"
