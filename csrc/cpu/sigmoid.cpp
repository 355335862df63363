#include "map.h"

#include "../operators/sigmoid.h"
