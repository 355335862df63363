#include "../../csrc/cpu/rows.h"

#include "operators.h"
