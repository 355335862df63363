#include "elements.h"

#include "../operators/pinball_loss.h"
