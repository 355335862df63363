#include "update.cuh"

#include "../operators/adam.h"
