#include "update.h"

#include "../operators/sgd.h"
