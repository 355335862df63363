#include "draws.cuh"

#include "../operators/normal.h"
