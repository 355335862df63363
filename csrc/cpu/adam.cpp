#include "update.h"

#include "../operators/adam.h"
