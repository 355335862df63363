// Where random numbers go, and how they are numbered.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/macros/Macros.h>

#include <cstdint>

namespace torchnotes {

// The numbering of the elements of every part; a part has `rows` rows.
struct Numbering {
  int64_t rows = 1, first = 0, pitch = 0;

  C10_HOST_DEVICE int64_t part(int64_t row) const { return rows == 1 ? row : row / rows; }
  C10_HOST_DEVICE int64_t start(int64_t row) const { return rows == 1 ? first : first + row % rows * pitch; }

  // The most elements of a row's first group that precede the row.
  int64_t max_skipped(int64_t group) const { return rows == 1 || pitch % group == 0 ? first % group : group - 1; }
};

// A pair (seed, offset) for each part on the device, or a single pair.
struct Keys {
  const int64_t* data;
  int64_t only[2];

  C10_HOST_DEVICE const int64_t* operator[](int64_t part) const { return data == nullptr ? only : data + 2 * part; }
};

// Fills `rows` contiguous rows of `size` elements with random numbers, or multiplies the elements of `in` by them.
struct Noise {
  c10::ScalarType type;
  void* out;
  const void* in;  // null to fill
  int64_t rows, size;
  Numbering numbering;
  Keys keys;
};

}  // namespace torchnotes
