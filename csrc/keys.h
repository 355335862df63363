// The keys of random numbers.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "formulas/philox.h"

namespace torchnotes {

// A key is a pair (seed, offset) of int64, on the CPU or the device of x. Of several, in a tensor (..., 2) whose other
// dimensions are the first ones of x, each is that of a part of x, in which the elements are counted from 0.
struct Parts {
  at::Tensor keys;
  int64_t count, size;  // how many parts, and the elements of each

  Parts(const at::Tensor& x, const at::Tensor& keys) : keys(keys.contiguous()), count(keys.numel() / 2) {
    const auto leading = keys.sizes().slice(0, std::max<int64_t>(keys.dim() - 1, 0));
    TORCH_CHECK(
        keys.scalar_type() == at::kLong && keys.dim() >= 1 && keys.size(-1) == 2 &&
            leading == x.sizes().slice(0, std::min<size_t>(leading.size(), x.dim())),
        "torchnotes: expected a key (seed, offset) of dtype int64, or one for each part of an input of size ",
        x.sizes(),
        ", got ",
        keys.scalar_type(),
        " of size ",
        keys.sizes()
    );
    TORCH_CHECK(
        keys.is_cpu() || keys.device() == x.device(),
        "torchnotes: the key is on ",
        keys.device(),
        ", the input on ",
        x.device()
    );
    size = count == 0 ? 0 : x.numel() / count;
  }
};

}  // namespace torchnotes
