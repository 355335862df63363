#include "map.h"

#include "../operators/leaky_relu.h"
