#include "draws.cuh"

#include "../operators/uniform.h"
