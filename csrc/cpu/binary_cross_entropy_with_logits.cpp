#include "elements.h"

#include "../operators/binary_cross_entropy_with_logits.h"
