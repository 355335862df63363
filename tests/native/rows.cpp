#include "../../csrc/cpu/rows.h"

#define ON(tensor)
#include "operators.h"
