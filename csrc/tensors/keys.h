// The keys of random numbers, and how elements are numbered.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <algorithm>

#include "loops/noise.h"

namespace torchnotes {

// The position of a shard in the full tensor, which determines the numbers of its elements: (first, length, pitch) for
// rows of `length` elements, where row r starts at number first + r pitch. Without it elements are numbered from 0.
using ShardPosition = at::OptionalIntArrayRef;

// A key is a pair (seed, offset) of int64, on the CPU or the device of x. A tensor of keys of size (..., 2), whose
// other dimensions are the first ones of x, has a key for each part of x; all parts are numbered alike.
struct Parts {
  at::Tensor keys;
  int64_t count, size;  // the number of rows, and of elements per row
  Numbering numbering;

  Parts(const at::Tensor& x, const at::Tensor& keys, ShardPosition shard)
      : keys(keys.contiguous()), count(keys.numel() / 2) {
    const auto leading = keys.sizes().slice(0, std::max<int64_t>(keys.dim() - 1, 0));
    TORCH_CHECK(
        keys.scalar_type() == at::kLong && keys.dim() >= 1 && keys.size(-1) == 2 &&
            leading == x.sizes().slice(0, std::min<size_t>(leading.size(), x.dim())),
        "torchnotes: expected a key (seed, offset) of dtype int64, or one key for each slice of an input of size ",
        x.sizes(),
        ", got ",
        keys.scalar_type(),
        " of size ",
        keys.sizes()
    );
    TORCH_CHECK(
        keys.is_cpu() || keys.device() == x.device(),
        "torchnotes: expected the key on the CPU or on ",
        x.device(),
        " like the input, got one on ",
        keys.device()
    );
    size = count == 0 ? 0 : x.numel() / count;
    if (shard && size > 0) {
      divide_into_rows(*shard);
    }
  }

 private:
  void divide_into_rows(at::IntArrayRef shard) {
    TORCH_CHECK(
        shard.size() == 3 && shard[0] >= 0 && shard[1] > 0 && shard[2] >= 0 && size % shard[1] == 0,
        "torchnotes: expected a non-negative shard (first, length, pitch) whose length divides the number of "
        "elements, ",
        size,
        ", got ",
        shard
    );
    numbering = {size / shard[1], shard[0], shard[2]};
    size = shard[1];
    count *= numbering.rows;
  }
};

// The keys of all parts, where the kernels read them. A single key on the CPU is passed by value, so that nothing is
// copied or synchronized.
struct PartKeys {
  at::Tensor tensor;
  Keys keys{};

  PartKeys(const at::Tensor& given, at::Device device) {
    if (given.is_cpu() && given.numel() == 2) {
      const int64_t* const key = given.const_data_ptr<int64_t>();
      keys.only[0] = key[0];
      keys.only[1] = key[1];
    } else {
      tensor = given.to(device);
      keys.data = tensor.const_data_ptr<int64_t>();
    }
  }
};

}  // namespace torchnotes
