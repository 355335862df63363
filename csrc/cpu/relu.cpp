#include "map.h"

#include "../operators/relu.h"
