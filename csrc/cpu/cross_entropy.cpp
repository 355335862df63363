#include "rows.h"

#include "../operators/cross_entropy.h"
