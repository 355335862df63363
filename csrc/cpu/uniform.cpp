#include "draws.h"

#include "../operators/uniform.h"
