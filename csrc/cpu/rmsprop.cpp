#include "update.h"

#include "../operators/rmsprop.h"
