// A block is a segment of each of some neighboring rows: contiguous memory. Rows are reduced in pieces of a fixed size,
// so that the order of additions depends on the shape only. If the rows of a block stay in cache until the second pass,
// threads take blocks of whole rows; otherwise, or if there are fewer rows than threads, both passes follow the order
// of memory. Measured in docs/decisions/batch-norm-traversal.md.
#include "loops/cpu/segments.h"

#include <algorithm>
#include <vector>

#include "loops/cpu/parallel.h"
#include "loops/cpu/stream.h"
#include "loops/cpu/tile.h"

namespace torchnotes {
namespace {

constexpr int64_t kPiece = 32768;         // elements of a row; large enough that merging the lanes costs nothing
constexpr int64_t kBlockElements = 2048;  // enough for the processor to prefetch the rest of a block
constexpr int64_t kBlockRows = 32;
constexpr int64_t kFetched = 1024;    // elements ahead in a longer block
constexpr int64_t kCached = 1 << 19;  // bytes that one core still finds in its cache for the second pass

// Some neighboring rows: sums and constants of the current piece, the merged State and the Formula of each row.
struct RowsInTurn {
  int64_t first, count;
  std::array<VectorMemory, kBlockRows> sums;
  std::array<StateMemory, kBlockRows> constants, states, formulas;
};

template <class T>
class Segments : RowPass<T> {
  using RowPass<T>::shape;
  using RowPass<T>::functions;
  using RowPass<T>::op;
  using RowPass<T>::in;
  using RowPass<T>::inputs;
  using RowPass<T>::out;

  static constexpr int64_t kSize = Vectorized<T>::size();

 public:
  explicit Segments(const RowPass<T>& pass) : RowPass<T>(pass) {
    const int64_t bytes = std::max<int64_t>(1, shape.elements() * inputs * element_bytes(in[0].type));
    fits_ = bytes <= kCached;
    block_ = std::clamp<int64_t>(kBlockElements / shape.length, 1, kBlockRows);
    if (fits_) {
      block_ = std::min(block_, kCached / bytes);
    }
    blocks_ = at::ceil_div(shape.rows, block_);
    by_rows_ = fits_ && shape.rows >= at::get_num_threads();
    parts_ = at::ceil_div(shape.length, kPiece);
    together_ = std::max<int64_t>(1, kPiece / shape.length);
    pieces_ = parts_ > 1 ? shape.segments * parts_ : at::ceil_div(shape.segments, together_);
    streams_ = out.data != nullptr && shape.length * element_bytes(out.type) % 64 == 0 &&
               should_stream(out.data, shape.rows * shape.elements() * element_bytes(out.type));
  }

  void reduce() const { by_rows_ ? run_by_rows(kReduce) : run_in_order(kReduce); }
  void transform() const { by_rows_ ? run_by_rows(kTransform) : run_in_order(kTransform); }
  void reduce_and_map() const { by_rows_ ? run_by_rows(kReduceAndMap) : run_in_order(kReduceAndMap); }

  void map() const {
    std::vector<StateMemory> formulas(shape.rows);
    functions.formula(op, 0, shape.rows, formulas.data());
    map_in_order(formulas.data());
  }

 private:
  enum Passes { kReduce, kTransform, kReduceAndMap };

  // Part of a row: whole segments, or part of a long one.
  struct Piece {
    int64_t segment, segments, offset, length;
  };

  Piece piece(int64_t i) const {
    if (parts_ > 1) {
      const int64_t offset = i % parts_ * kPiece;
      return {i / parts_, 1, offset, std::min(kPiece, shape.length - offset)};
    }
    return {i * together_, std::min(together_, shape.segments - i * together_), 0, shape.length};
  }

  // Elements of a segment of `rows` rows.
  Run<T> run_at(int64_t row, int64_t rows, int64_t segment, int64_t offset, int64_t length) const {
    Run<T> run;
    run.type = in[0].type;
    run.n = length / kSize;
    run.tail = length % kSize;
    run.segments = rows;
    run.ahead = rows * length <= kBlockElements ? shape.rows * shape.length : kFetched;
    for (int k = 0; k < inputs; ++k) {
      run.in[k] = {element_at(in[k].data, in[k].type, in[k].offset(row, segment) + offset), in[k].row_stride};
    }
    return run;
  }

  Output output_at(int64_t row, int64_t segment, int64_t offset) const {
    return {element_at(out.data, out.type, out.offset(row, segment) + offset), out.row_stride, streams_};
  }

  // The State of a piece of each row.
  void reduce_piece(const Piece& piece, RowsInTurn& rows, bool maps, StateMemory* states) const {
    functions.start_segments(op, rows.first, rows.count, rows.sums.data(), rows.constants.data());
    for (int64_t i = piece.segment; i < piece.segment + piece.segments; ++i) {
      const Run<T> run = run_at(rows.first, rows.count, i, piece.offset, piece.length);
      if (maps) {
        const Output to = output_at(rows.first, i, piece.offset);
        functions.add_and_map_segments(op, run, rows.sums.data(), rows.constants.data(), rows.formulas.data(), to);
      } else {
        functions.add_segments(op, run, rows.sums.data(), rows.constants.data());
      }
    }
    functions.merge_segments(op, rows.first, rows.count, rows.sums.data(), states);
  }

  // Calls f(row, rows) for the blocks of the rows [begin, end).
  template <class F>
  void for_blocks(int64_t begin, int64_t end, const F& f) const {
    for (int64_t row = begin; row < end; row += block_) {
      f(row, std::min(block_, end - row));
    }
  }

  void run_by_rows(Passes passes) const {
    at::parallel_for(0, shape.rows, grain_of(shape.elements()), [&](int64_t begin, int64_t end) {
      RowsInTurn rows;
      for_blocks(begin, end, [&](int64_t first, int64_t count) {
        rows.first = first;
        rows.count = count;
        run_rows(passes, rows);
      });
      stream_fence();
    });
  }

  void run_rows(Passes passes, RowsInTurn& rows) const {
    if (passes == kReduceAndMap) {
      functions.formula(op, rows.first, rows.count, rows.formulas.data());
    }
    reduce_piece(piece(0), rows, passes == kReduceAndMap, rows.states.data());
    for (int64_t i = 1; i < pieces_; ++i) {
      std::array<StateMemory, kBlockRows> more;
      reduce_piece(piece(i), rows, passes == kReduceAndMap, more.data());
      for (int64_t k = 0; k < rows.count; ++k) {
        functions.merge(rows.states[k], more[k]);
      }
    }
    for (int64_t k = 0; k < rows.count; ++k) {
      functions.finish(op, rows.first + k, rows.states[k], rows.formulas[k]);
    }
    if (passes == kTransform) {
      for (int64_t i = 0; i < shape.segments; ++i) {
        const Run<T> run = run_at(rows.first, rows.count, i, 0, shape.length);
        functions.map_segments(op, rows.formulas.data(), run, output_at(rows.first, i, 0));
      }
    }
  }

  void run_in_order(Passes passes) const {
    const bool maps = passes == kReduceAndMap;
    std::vector<StateMemory> formulas(shape.rows), states(pieces_ * shape.rows);
    if (maps) {
      functions.formula(op, 0, shape.rows, formulas.data());
    }
    const int64_t grain = grain_of(block_ * shape.elements() / pieces_);
    at::parallel_for(0, pieces_ * blocks_, grain, [&](int64_t begin, int64_t end) {
      RowsInTurn rows;
      for (int64_t i = begin; i < end; ++i) {
        rows.first = i % blocks_ * block_;
        rows.count = std::min(block_, shape.rows - rows.first);
        if (maps) {
          std::copy_n(&formulas[rows.first], rows.count, rows.formulas.begin());
        }
        reduce_piece(piece(i / blocks_), rows, maps, &states[i / blocks_ * shape.rows + rows.first]);
      }
      stream_fence();
    });
    for (int64_t row = 0; row < shape.rows; ++row) {
      for (int64_t i = 1; i < pieces_; ++i) {
        functions.merge(states[row], states[i * shape.rows + row]);
      }
      functions.finish(op, row, states[row], formulas[row]);
    }
    if (passes == kTransform) {
      map_in_order(formulas.data());
    }
  }

  void map_in_order(const StateMemory* formulas) const {
    const int64_t length = std::min(shape.length, kPiece), parts = at::ceil_div(shape.length, length);
    const int64_t blocks = shape.segments * blocks_ * parts;
    at::parallel_for(0, blocks, grain_of(block_ * length), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / parts % blocks_ * block_, rows = std::min(block_, shape.rows - row);
        const int64_t segment = i / parts / blocks_, offset = i % parts * length;
        const Run<T> run = run_at(row, rows, segment, offset, std::min(length, shape.length - offset));
        functions.map_segments(op, formulas + row, run, output_at(row, segment, offset));
      }
      stream_fence();
    });
  }

  bool fits_, by_rows_, streams_;
  int64_t block_, blocks_;             // rows of a block, and how many blocks there are
  int64_t parts_, together_, pieces_;  // pieces of a long segment, segments of a piece, pieces of a row
};

}  // namespace

void reduce_segments(const RowPass<float>& pass) { Segments(pass).reduce(); }
void reduce_segments(const RowPass<double>& pass) { Segments(pass).reduce(); }
void map_segments(const RowPass<float>& pass) { Segments(pass).map(); }
void map_segments(const RowPass<double>& pass) { Segments(pass).map(); }
void transform_segments(const RowPass<float>& pass) { Segments(pass).transform(); }
void transform_segments(const RowPass<double>& pass) { Segments(pass).transform(); }
void reduce_and_map_segments(const RowPass<float>& pass) { Segments(pass).reduce_and_map(); }
void reduce_and_map_segments(const RowPass<double>& pass) { Segments(pass).reduce_and_map(); }

}  // namespace torchnotes
