#include "columns.h"

#include "../operators/batch_norm.h"
