#include "columns.h"
#include "map.h"
#include "product.h"

#include "../operators/linear.h"
