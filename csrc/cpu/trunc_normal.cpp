#include "draws.h"

#include "../operators/trunc_normal.h"
