#include "rows.h"

#include "../operators/softmax.h"
