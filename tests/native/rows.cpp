#include "../../csrc/cpu/rows.h"

#define DEVICE CPU
#define ON(tensor)
#include "operators.h"
