#include "../../csrc/cpu/columns.h"

#include "operators.h"
