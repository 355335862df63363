#include "rows.h"

#include "../operators/log_softmax.h"
