#include "map.h"

#include "../operators/tanh.h"
