#include "columns.cuh"
#include "map.cuh"
#include "product.cuh"

#include "../operators/linear.h"
