#include "squares.h"

#include "../operators/gradient_norm.h"
