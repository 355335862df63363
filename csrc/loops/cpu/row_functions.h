// What the traversals of rows.h and columns.h call to process a run of vectors. These functions are all that is
// compiled for each operation (first_pass.h and second_pass.h): the traversals are compiled once per library
// (docs/decisions/loops.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "loops/cpu/load.h"
#include "loops/row_shape.h"

namespace torchnotes {

constexpr int kMaxInputs = 4;

// Where the inputs of a pass are: of one type, or widened in a buffer.
template <class T>
struct Inputs {
  struct Input {
    const void* data;
    int64_t stride;  // in elements
  };
  std::array<Input, kMaxInputs> in;
  c10::ScalarType type = kTypeOf<T>;  // T, or a type of 16 bits
};

// Contiguous elements of a row: n vectors, and a vector of `tail` elements after them. Of several rows that take turns:
// a segment of each, `stride` elements apart.
template <class T>
struct Run : Inputs<T> {
  int64_t n, tail, segments = 1;
  int64_t ahead = 0;  // how many elements ahead to prefetch
};

// n vectors with one row per lane, `stride` elements from one to the next.
template <class T>
struct LaneRun : Inputs<T> {
  int64_t n;
};

// The least number of elements of a short row. AVX-512 loads and stores parts of vectors as fast as whole ones.
#ifdef CPU_CAPABILITY_AVX512
template <class T>
constexpr int64_t kShortestShort = Vectorized<T>::size() * 3 / 8;
#else
template <class T>
constexpr int64_t kShortestShort = Vectorized<T>::size();
#endif

// Rows of `length` contiguous elements, at least kShortestShort, of which `together` are processed at a time. `buffer`
// has room for these, or for as many vectors if they are shorter.
template <class T>
struct ShortRows : Inputs<T> {
  int64_t rows, length, together;
  T* buffer;
};

// Neighboring rows of `length` elements that interleave, at least a vector of them; `stride` elements from one element
// of a row to the next. `buffer` has room for kNeighborVectors vectors of rows of each input.
template <class T>
struct InterleavedRows : Inputs<T> {
  int64_t rows, length;
  T* buffer;
};

// How many rows of a matrix are processed together, while their States and Formulas are in registers. The lines of more
// rows would compete for a set of the L1 cache, if rows are some KiB long.
constexpr int kRowsTogether = 4;

// `length` elements of neighboring columns, `stride` elements from one to the next.
template <class T>
struct Panel : Inputs<T> {
  int64_t columns, length;
  bool contiguous;  // from one row to the next
};

// The Formulas or Constants of columns, as an array for each member: `stride` elements from one to the next. An array
// of structs of vectors makes a pass over cold memory take up to 1.5 times as long.
template <class T>
struct ColumnMembers {
  T* members;
  int64_t stride;

  ColumnMembers from(int64_t column) const { return {members + column, stride}; }
};

// Where a second pass writes: `stride` elements from one segment, vector or row to the next, past the caches or not.
struct Output {
  void* data;
  int64_t stride;
  bool streamed = false;
};

// Memory for a State or a Formula of one row, for a Formula of vectors, and for the states that a row is added up in.
struct alignas(16) StateMemory {
  std::byte bytes[64];
};
struct alignas(64) VectorMemory {
  std::byte bytes[512];
};
struct alignas(64) AccumulatorMemory {
  std::byte bytes[2560];
};

// An array of structs of vectors, whose type only the operation knows.
class VectorArray {
 public:
  VectorArray(int64_t count, size_t bytes)
      : bytes_(bytes),
        lines_(std::make_unique_for_overwrite<Line[]>((count * bytes + sizeof(Line) - 1) / sizeof(Line))) {}
  void* data() { return lines_.get(); }
  void* operator[](int64_t i) { return reinterpret_cast<std::byte*>(lines_.get()) + i * bytes_; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  size_t bytes_;
  std::unique_ptr<Line[]> lines_;
};

// Where a run is in a row, and whether to call finish() after the last.
struct Step {
  bool first, last, finishes;
};

template <class T>
struct RowFunctions {
  bool widened;   // whether the inputs of rows must be Ts
  bool prescans;  // whether `reduce` reads each run twice, so that it must fit into L1

  // The first pass over a row, run by run. The last run gives a State or, if it `finishes`, a Formula, also of vectors.
  void (*reduce)(
      const void* op,
      int64_t row,
      const Run<T>& run,
      Step step,
      AccumulatorMemory& sums,
      StateMemory& result,
      VectorMemory& packed
  );
  void (*merge)(StateMemory& state, const StateMemory& other);
  void (*finish)(const void* op, int64_t row, const StateMemory& state, StateMemory& formula);

  // The first pass over n rows from `row` on, one per lane. The last run finishes all of them.
  void (*reduce_lanes)(
      const void* op,
      int64_t row,
      int64_t n,
      const LaneRun<T>& run,
      Step step,
      AccumulatorMemory& sums,
      StateMemory* formulas,
      VectorMemory& packed
  );

  // The first pass over columns. `sums` holds a State of vectors for each vector of the columns of a panel, which may
  // be `columns` different ones in turn; fold_columns() merges those. finish_columns() may be called without
  // `formulas`.
  size_t state_bytes, constants_bytes;  // of vectors
  void (*column_constants)(const void* op, int64_t begin, int64_t end, const ColumnMembers<T>& constants);
  void (*start_columns)(const void* op, int64_t vectors, void* sums);
  void (*add_columns)(const void* op, const Panel<T>& panel, void* sums, const ColumnMembers<T>& constants);
  void (*merge_columns)(int64_t vectors, void* sums, const void* others);
  void (*fold_columns)(int64_t columns, int64_t width, void* sums);
  void (*finish_columns)(
      const void* op, int64_t begin, int64_t end, const void* sums, const ColumnMembers<T>* formulas
  );

  // The first pass over segments of neighboring rows: run.segments of them, one of each row. `sums` holds a State of
  // vectors for each row.
  void (*start_segments)(const void* op, int64_t row, int64_t rows, void* sums, StateMemory* constants);
  void (*add_segments)(const void* op, const Run<T>& run, void* sums, const StateMemory* constants);
  void (*merge_segments)(const void* op, int64_t row, int64_t rows, const void* sums, StateMemory* states);

  // The second pass.
  size_t formula_bytes;                                                            // of vectors
  void (*formula)(const void* op, int64_t row, int64_t n, StateMemory* formulas);  // of n rows from `row` on, or null
  void (*pack)(const StateMemory* formulas, bool same, void* packed, int64_t i);   // as the i-th of an array
  void (*column_formulas)(const void* op, int64_t begin, int64_t end, const ColumnMembers<T>& formulas);
  void (*map)(const void* op, const void* formula, const Run<T>& run, const Output& out);
  void (*map_segments)(const void* op, const StateMemory* formulas, const Run<T>& run, const Output& out);
  void (*map_lanes)(const void* op, const void* formula, const LaneRun<T>& run, const Output& out);
  void (*map_columns)(const void* op, const ColumnMembers<T>& formulas, const Panel<T>& panel, const Output& out);

  // Both passes at once, over segments or columns.
  void (*add_and_map_segments)(
      const void* op,
      const Run<T>& run,
      void* sums,
      const StateMemory* constants,
      const StateMemory* formulas,
      const Output& out
  );
  void (*add_and_map_columns)(
      const void* op,
      const Panel<T>& panel,
      void* sums,
      const ColumnMembers<T>& constants,
      const ColumnMembers<T>& formulas,
      const Output& out
  );

  void (*patch)(const void* op, int64_t row, int64_t n, const StateMemory* formulas);  // n rows from `row` on, or null

  // For operations on short rows, otherwise null: all passes over rows from `row` on, and formula() and patch() of n
  // rows, one per lane.
  void (*short_rows)(const void* op, int64_t row, const ShortRows<T>& rows, const Output& out);
  void (*interleaved_rows)(const void* op, int64_t row, const InterleavedRows<T>& rows, const Output& out);
  void (*formula_lanes)(const void* op, int64_t row, int64_t n, void* packed);
  void (*patch_lanes)(const void* op, int64_t row, int64_t n, const void* packed);
};

}  // namespace torchnotes
