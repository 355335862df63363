#include "columns.cuh"

#include "../operators/batch_norm.h"
