#include "draws.cuh"

#include "../operators/gaussian_dropout.h"
