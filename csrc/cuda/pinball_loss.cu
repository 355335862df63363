#include "elements.cuh"

#include "../operators/pinball_loss.h"
