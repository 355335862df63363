#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace torchnotes {

// The names of the activations by number, the identity first.
std::vector<std::string> activation_names();

// Raises a ValueError if no activation has this number.
void check_activation(int64_t number);

}  // namespace torchnotes
