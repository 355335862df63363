#include "draws.h"

#include "../operators/normal.h"
