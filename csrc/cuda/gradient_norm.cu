#include "squares.cuh"

#include "../operators/gradient_norm.h"
