#include "draws.h"

#include "../operators/gaussian_dropout.h"
