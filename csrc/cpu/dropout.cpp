#include "draws.h"

#include "../operators/dropout.h"
