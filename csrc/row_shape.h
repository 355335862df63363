// What the row drivers (cpu/rows.h, cuda/rows.cuh) say of rows: where they lie, and what an operation on one is.
//
// A row is made of segments, each contiguous:
//
//   softmax over logits (R, C)            R rows of one segment of length C
//   statistics per channel of (N, C, L)   C rows of N segments of length L, C L elements from one to the next
//
// An operation tells what happens to one row:
//
//   State<T> start<T>(row)   nothing seen yet, for T a scalar or a SIMD vector. A State is a plain struct of Ts with
//     void add(T x...)         one element of each input
//     void merge(State)        what another part of the row has seen; start() counts as nothing seen
//   finish(row, State<acc>)  called once when all is seen: writes results per row, and returns the formula of a second
//   pass
//     T operator()(T x...)     one element of the output
//     void amend()             optional, called when the row is written: for an element of its own, like a loss's
//     target
//
// Statistics (acc) are in float for float, bfloat16 and half, in double for double. The order of additions and merges
// is fixed by the shape: not by the number of threads.
#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

namespace torchnotes {

template <class T>
struct RowOperand {
  T* data;
  int64_t row_stride, segment_stride;
  C10_HOST_DEVICE T* at(int64_t row, int64_t segment) const {
    return data + row * row_stride + segment * segment_stride;
  }
};

struct RowShape {
  int64_t rows, segments, length;

  // An operand that has every row, contiguous in the order (segment, row, element).
  template <class T>
  RowOperand<T> each(T* data) const {
    return {data, length, rows * length};
  }
  // One segment that serves every row and segment, as a weight per class does.
  template <class T>
  RowOperand<T> shared(T* data) const {
    return {data, 0, 0};
  }
};

template <class Formula>
C10_HOST_DEVICE inline auto amend(const Formula& f, int) -> decltype(f.amend()) {
  f.amend();
}
template <class Formula>
C10_HOST_DEVICE inline void amend(const Formula&, long) {}  // the overload for formulas without amend()

}  // namespace torchnotes
