// The keys of random numbers, and how elements are numbered.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <algorithm>

#include "formulas/philox.h"

namespace torchnotes {

// The position of a shard in the full tensor, which determines the numbers of its elements: (first, length, pitch) for
// rows of `length` elements, where row r starts at number first + r pitch. Without it elements are numbered from 0.
using Place = at::OptionalIntArrayRef;

// The numbering of the elements of every part; a part has `rows` rows.
struct Numbering {
  int64_t rows = 1, first = 0, pitch = 0;

  C10_HOST_DEVICE int64_t part(int64_t row) const { return rows == 1 ? row : row / rows; }
  C10_HOST_DEVICE int64_t start(int64_t row) const { return rows == 1 ? first : first + row % rows * pitch; }

  // The most elements of a row's first group that precede the row.
  int64_t max_skipped(int64_t group) const { return rows == 1 || pitch % group == 0 ? first % group : group - 1; }
};

// A key is a pair (seed, offset) of int64, on the CPU or the device of x. A tensor of keys of size (..., 2), whose
// other dimensions are the first ones of x, has a key for each part of x; all parts are numbered alike.
struct Parts {
  at::Tensor keys;
  int64_t count, size;  // the number of rows, and of elements per row
  Numbering numbering;

  Parts(const at::Tensor& x, const at::Tensor& keys, Place place) : keys(keys.contiguous()), count(keys.numel() / 2) {
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
    if (place && size > 0) {
      divide_into_rows(*place);
    }
  }

 private:
  void divide_into_rows(at::IntArrayRef place) {
    TORCH_CHECK(
        place.size() == 3 && place[0] >= 0 && place[1] > 0 && place[2] >= 0 && size % place[1] == 0,
        "torchnotes: expected a non-negative place (first, length, pitch) whose length divides the number of "
        "elements, ",
        size,
        ", got ",
        place
    );
    numbering = {size / place[1], place[0], place[2]};
    size = place[1];
    count *= numbering.rows;
  }
};

}  // namespace torchnotes
