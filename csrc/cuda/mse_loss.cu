#include "elements.cuh"

#include "../operators/mse_loss.h"
