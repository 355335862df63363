#include "update.cuh"

#include "../operators/rmsprop.h"
