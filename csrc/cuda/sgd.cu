#include "update.cuh"

#include "../operators/sgd.h"
