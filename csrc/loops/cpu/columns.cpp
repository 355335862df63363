// The matrix is read in memory order, with one column per lane, a few rows at a time. If rows are short, or not whole
// vectors, several of them are read as one: the lanes of a column are merged in the end. Threads reduce blocks of rows
// and columns, whose States stay in L1. Measured in docs/decisions/batch-norm-traversal.md.
#include "loops/cpu/columns.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

#include "loops/cpu/parallel.h"
#include "loops/cpu/stream.h"
#include "loops/cpu/tile.h"

namespace torchnotes {
namespace {

constexpr int64_t kChunks = 64;
constexpr int64_t kBlock = 16384;        // elements that are worth a State for each column
constexpr int64_t kColumnCost = 8;       // elements that take about as long as what precedes or follows a column
constexpr int64_t kRowBytes = 512;       // shorter rows are read several at a time,
constexpr int64_t kFewRows = 64;         // unless they are few
constexpr int64_t kPadding = 3;          // vectors between arrays, which would compete for a set of the L1 cache
constexpr int64_t kPanelBytes = 131072;  // of each input, which a staged operation adds and then maps
constexpr int64_t kBlockColumns = 1024;  // whose States stay in L1

template <class T>
class Columns : RowPass<T> {
  using RowPass<T>::shape;
  using RowPass<T>::functions;
  using RowPass<T>::op;
  using RowPass<T>::in;
  using RowPass<T>::inputs;
  using RowPass<T>::out;

  static constexpr int64_t kSize = Vectorized<T>::size();

 public:
  explicit Columns(const RowPass<T>& pass) : RowPass<T>(pass) {
    const int64_t unit = in[0].type == kTypeOf<T> ? kSize : 2 * kSize;  // as LoadNarrow::store_pair() writes
    int64_t together = unit / std::gcd(unit, shape.rows);
    while (together * shape.rows * element_bytes(in[0].type) < kRowBytes && shape.length / together >= kFewRows) {
      together *= 2;
    }
    width_ = shape.rows * together;
    rows_ = at::ceil_div(shape.length, together);
    rest_ = shape.length % together * shape.rows;
    vectors_ = width_ / kSize;
  }

  void reduce() const { reduce(nullptr); }

  void map_and_reduce(const TileMap<T>& map) const {
    reduce_by(
        std::max<int64_t>(1, width_),
        nullptr,
        [&](int64_t begin, int64_t end, int64_t, void* sums, const ColumnMembers<T>& constants) {
          for_panels(begin, end, 0, width_, [&](const Panel<T>& panel, int64_t j) {
            map_and_add(map, panel, j, sums, constants);
          });
        }
    );
  }

  void map() const {
    VectorArray memory(vectors_ + kPadding, functions.formula_bytes);
    const ColumnMembers<T> formulas = members_in(memory);
    find_formulas(formulas);
    map(formulas);
  }

  void transform() const {
    VectorArray memory(vectors_ + kPadding, functions.formula_bytes);
    const ColumnMembers<T> formulas = members_in(memory);
    reduce(&formulas);
    map(formulas);
  }

  void reduce_and_map() const {
    VectorArray memory(vectors_ + kPadding, functions.formula_bytes);
    const ColumnMembers<T> formulas = members_in(memory);
    find_formulas(formulas);
    const bool streamed = streams();
    const int64_t row_bytes = std::min(kBlockColumns, width_) * element_bytes(in[0].type);
    const int64_t length = at::ceil_div<int64_t>(kPanelBytes, row_bytes * kRowsTogether) * kRowsTogether;
    const auto add_and_map =
        [&](int64_t begin, int64_t end, int64_t first, void* sums, const ColumnMembers<T>& constants) {
          for (int64_t i = begin; i < end; i += length) {
            for_panels(i, std::min(i + length, end), first, kBlockColumns, [&](const Panel<T>& panel, int64_t j) {
              functions.add_and_map_columns(
                  op, panel, sums, constants, formulas.from(first), output_at(j, first, streamed)
              );
            });
          }
          stream_fence();
        };
    reduce_by(kBlockColumns, nullptr, add_and_map);
  }

 private:
  ColumnMembers<T> members_in(VectorArray& memory) const {
    return {static_cast<T*>(memory.data()), (vectors_ + kPadding) * kSize};
  }

  // Calls f(begin, end) for vectors of the different columns, in parallel.
  template <class F>
  void for_columns(const F& f) const {
    at::parallel_for(
        0, at::ceil_div(shape.rows, kSize), grain_of(kSize * kColumnCost), [&](int64_t begin, int64_t end) {
          f(begin * kSize, std::min(end * kSize, shape.rows));
        }
    );
  }

  // Repeats what belongs to the different columns for all columns of a panel. `bytes`: of vectors
  void repeat(const ColumnMembers<T>& all, size_t bytes) const {
    for (size_t k = 0; k < bytes / sizeof(Vectorized<T>); ++k) {
      T* const member = all.members + k * all.stride;
      for (int64_t i = shape.rows; i < width_; ++i) {
        member[i] = member[i - shape.rows];
      }
    }
  }

  void find_formulas(const ColumnMembers<T>& formulas) const {
    for_columns([&](int64_t begin, int64_t end) { functions.column_formulas(op, begin, end, formulas); });
    repeat(formulas, functions.formula_bytes);
  }

  bool streams() const {
    const int64_t row_bytes = width_ * element_bytes(out.type);
    return should_stream(out.data, rows_ * row_bytes, row_bytes);
  }

  void reduce(const ColumnMembers<T>* formulas) const {
    const auto add = [&](int64_t begin, int64_t end, int64_t first, void* sums, const ColumnMembers<T>& constants) {
      for_panels(begin, end, first, kBlockColumns, [&](const Panel<T>& panel, int64_t) {
        functions.add_columns(op, panel, sums, constants);
      });
    };
    reduce_by(kBlockColumns, formulas, add);
  }

  void map(const ColumnMembers<T>& formulas) const {
    const bool streamed = streams();
    at::parallel_for(0, rows_, grain_of(width_), [&](int64_t begin, int64_t end) {
      for (int64_t first = 0; first < width_; first += kBlockColumns) {
        for_panels(begin, end, first, kBlockColumns, [&](const Panel<T>& panel, int64_t j) {
          functions.map_columns(op, formulas.from(first), panel, output_at(j, first, streamed));
        });
      }
      stream_fence();
    });
  }

  // add(begin, end, first, sums, constants) adds the rows [begin, end) of a block of columns, the first of which is
  // `first`.
  template <class Add>
  void reduce_by(int64_t most_columns, const ColumnMembers<T>* formulas, const Add& add) const {
    const int64_t block = std::clamp<int64_t>(width_, 1, most_columns), blocks = at::ceil_div(width_, block);
    // A power of two, so that threads get equal shares.
    const int64_t most = std::clamp<int64_t>(std::bit_floor<uint64_t>(rows_ * block / kBlock), 1, kChunks);
    const int64_t chunk = std::max<int64_t>(1, at::ceil_div(rows_, most * kRowsTogether)) * kRowsTogether;
    const int64_t chunks = std::max<int64_t>(1, at::ceil_div(rows_, chunk));  // an empty one gives start()
    VectorArray sums(chunks * vectors_, functions.state_bytes);
    VectorArray memory(vectors_ + kPadding, functions.constants_bytes);
    const ColumnMembers<T> constants = members_in(memory);
    for_columns([&](int64_t begin, int64_t end) { functions.column_constants(op, begin, end, constants); });
    repeat(constants, functions.constants_bytes);
    at::parallel_for(0, chunks * blocks, grain_of(chunk * block), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / blocks * chunk, first = i % blocks * block;
        void* const of_block = sums[i / blocks * vectors_ + first / kSize];
        functions.start_columns(op, std::min(block, width_ - first) / kSize, of_block);
        add(row, std::min(row + chunk, rows_), first, of_block, constants.from(first));
      }
    });
    const auto merge = [&](int64_t begin, int64_t end) {
      for (int64_t i = 1; i < chunks; ++i) {
        functions.merge_columns(end - begin, sums[begin], sums[i * vectors_ + begin]);
      }
    };
    const bool folds = width_ > shape.rows;
    if (folds) {
      merge(0, vectors_);
      functions.fold_columns(shape.rows, width_, sums.data());
    }
    for_columns([&](int64_t begin, int64_t end) {
      if (!folds) {
        merge(begin / kSize, end / kSize);
      }
      functions.finish_columns(op, begin, end, sums.data(), formulas);
    });
    if (formulas != nullptr) {
      repeat(*formulas, functions.formula_bytes);
    }
  }

  // Calls f(panel, j) for the rows [begin, end) of a block of columns: for whole rows, and for the rest after them.
  template <class F>
  void for_panels(int64_t begin, int64_t end, int64_t first, int64_t block, const F& f) const {
    const int64_t columns = std::min(block, width_ - first);
    const int64_t whole = std::min(end, rest_ > 0 ? rows_ - 1 : rows_);
    if (begin < whole && columns > 0) {
      f(panel_at(begin, whole - begin, first, columns), begin);
    }
    if (whole < end && first < rest_) {
      f(panel_at(whole, 1, first, std::min(columns, rest_ - first)), whole);
    }
  }

  Panel<T> panel_at(int64_t j, int64_t length, int64_t first, int64_t columns) const {
    Panel<T> panel;
    panel.type = in[0].type;
    panel.columns = columns;
    panel.length = length;
    panel.contiguous = columns == width_;
    for (int k = 0; k < inputs; ++k) {
      panel.in[k] = {element_at(in[k].data, in[k].type, j * width_ + first), width_};
    }
    return panel;
  }

  Output output_at(int64_t j, int64_t first, bool streamed) const {
    return {element_at(out.data, out.type, j * width_ + first), width_, streamed};
  }

  // Whole rows are contiguous. They are mapped tile by tile and added a few rows at a time.
  void map_and_add(
      const TileMap<T>& map, const Panel<T>& all, int64_t j, void* sums, const ColumnMembers<T>& constants
  ) const {
    const bool direct = in[0].type == kTypeOf<T>;
    const int64_t length = std::max<int64_t>(kRowsTogether, kTile / width_);
    std::vector<T> written(direct ? 0 : length * width_ + kTilePadding);
    std::array<TileBuffer<T>, 2> buffers;
    Panel<T> panel = all;
    panel.type = kTypeOf<T>;
    for (int64_t begin = j, end = j + all.length; begin < end; begin += length) {
      panel.length = std::min(length, end - begin);
      void* const to = element_at(out.data, out.type, begin * width_);
      T* const y = direct ? static_cast<T*>(to) : written.data();
      const int64_t n = (panel.length - 1) * width_ + panel.columns;
      for (int64_t i = 0; i < n; i += kTile) {
        const int64_t m = std::min(kTile, n - i), at = begin * width_ + i;
        const T* const a = load_tile(in[0].data, in[0].type, at, m, buffers[0].data);
        const T* const b = load_tile(in[1].data, in[1].type, at, m, buffers[1].data);
        map.function(map.op, m, a, b, y + i);
      }
      panel.in[0] = {y, width_};
      functions.add_columns(op, panel, sums, constants);
      if (!direct) {
        store_tile(y, n, out.type, to);
      }
    }
  }

  // The matrix, with several rows as one if a row is not whole vectors.
  int64_t width_, vectors_, rows_;
  int64_t rest_;  // elements of the last row, if it is shorter than the others
};

}  // namespace

void reduce_columns(const RowPass<float>& pass) { Columns(pass).reduce(); }
void reduce_columns(const RowPass<double>& pass) { Columns(pass).reduce(); }
void map_and_reduce_columns(const RowPass<float>& pass, const TileMap<float>& map) {
  Columns(pass).map_and_reduce(map);
}
void map_and_reduce_columns(const RowPass<double>& pass, const TileMap<double>& map) {
  Columns(pass).map_and_reduce(map);
}
void map_columns(const RowPass<float>& pass) { Columns(pass).map(); }
void map_columns(const RowPass<double>& pass) { Columns(pass).map(); }
void transform_columns(const RowPass<float>& pass) { Columns(pass).transform(); }
void transform_columns(const RowPass<double>& pass) { Columns(pass).transform(); }
void reduce_and_map_columns(const RowPass<float>& pass) { Columns(pass).reduce_and_map(); }
void reduce_and_map_columns(const RowPass<double>& pass) { Columns(pass).reduce_and_map(); }

}  // namespace torchnotes
