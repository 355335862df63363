#include "draws.cuh"

#include "../operators/dropout.h"
