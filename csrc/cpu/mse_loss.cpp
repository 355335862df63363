#include "elements.h"

#include "../operators/mse_loss.h"
