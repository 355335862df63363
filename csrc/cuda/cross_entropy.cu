#include "rows.cuh"

#include "../operators/cross_entropy.h"
