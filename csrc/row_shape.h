// How the rows of a reduction lie in memory. A row is made of segments, each of them contiguous:
//
//   softmax over logits (R, C)            R rows of one segment of length C
//   statistics per channel of (N, C, L)   C rows of N segments of length L, the first N C L elements apart
#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

namespace torchnotes {

template <class T>
struct RowOperand {
  T* data;
  int64_t row_stride, segment_stride;
  C10_HOST_DEVICE T* at(int64_t row, int64_t segment) const { return data + row * row_stride + segment * segment_stride; }
};

struct RowShape {
  int64_t rows, segments, length;

  // An operand that has all the rows, contiguous in the order (segment, row, element).
  template <class T>
  RowOperand<T> each(T* data) const {
    return {data, length, rows * length};
  }
  // An operand of one segment that serves every row and segment, as a weight per class does.
  template <class T>
  RowOperand<T> shared(T* data) const {
    return {data, 0, 0};
  }
};

}  // namespace torchnotes
