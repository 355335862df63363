// The matrix is read in memory order, with one column per lane. Threads reduce chunks of consecutive elements of all
// columns. A chunk is processed in panels that stay in cache, while a few vectors of columns at a time pass through the
// registers. Measured in docs/decisions/batch-norm-traversal.md.
#include "loops/cpu/columns.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "loops/cpu/parallel.h"
#include "loops/cpu/stream.h"
#include "loops/cpu/tile.h"

namespace torchnotes {
namespace {

constexpr int64_t kChunks = 64;
constexpr int64_t kPanel = 32;  // elements of each column
// Of panels that are added and mapped at once, measured on Zen 4 with AVX2.
constexpr int64_t kPanelWidth = 512;  // columns
constexpr int64_t kPanelBytes = 32;   // of each column: 8 floats, which are added up in single precision
constexpr int64_t kWidth = 128;       // columns of a panel of 16-bit numbers, which is widened

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
  explicit Columns(const RowPass<T>& pass)
      : RowPass<T>(pass), columns_(shape.rows), vectors_(at::ceil_div(columns_, kSize)) {
    for (int k = 0; k < inputs; ++k) {
      direct_ = direct_ && in[k].type == in[0].type;
    }
  }

  void reduce() const { reduce(nullptr); }

  void map_and_reduce(const TileMap<T>& map) const {
    reduce_by(nullptr, [&](int64_t begin, int64_t end, void* sums, const void* constants) {
      map_and_add_chunk(map, begin, end, sums, constants);
    });
  }

  void map() const { map(given_formulas().data()); }

  void transform() const {
    VectorArray formulas(vectors_, functions.formula_bytes);
    reduce(formulas.data());
    map(formulas.data());
  }

  void reduce_and_map() const {
    VectorArray formulas = given_formulas();
    const bool streamed = streams();
    reduce_by(nullptr, [&](int64_t begin, int64_t end, void* sums, const void* constants) {
      add_and_map_chunk(begin, end, streamed, sums, constants, formulas.data());
      stream_fence();
    });
  }

 private:
  VectorArray given_formulas() const {
    VectorArray formulas(vectors_, functions.formula_bytes);
    functions.column_formulas(op, columns_, formulas.data());
    return formulas;
  }

  bool streams() const {
    const int64_t row_bytes = columns_ * element_bytes(out.type);
    return should_stream(out.data, shape.length * row_bytes, row_bytes);
  }

  void reduce(void* formulas) const {
    reduce_by(formulas, [this](int64_t begin, int64_t end, void* sums, const void* constants) {
      add_chunk(begin, end, sums, constants);
    });
  }

  void map(void* formulas) const {
    const bool streamed = streams();
    at::parallel_for(0, shape.length, grain_of(columns_), [&](int64_t begin, int64_t end) {
      map_range(begin, end, streamed, formulas);
      stream_fence();
    });
  }

  // add(begin, end, sums, constants) adds the elements [begin, end) of all columns.
  template <class Add>
  void reduce_by(void* formulas, const Add& add) const {
    const int64_t chunk = std::max(kPanel, at::ceil_div(shape.length, kChunks));
    const int64_t chunks = std::max<int64_t>(1, at::ceil_div(shape.length, chunk));  // an empty one gives start()
    VectorArray sums(chunks * vectors_, functions.state_bytes), constants(vectors_, functions.constants_bytes);
    const auto sums_of = [&](int64_t i) { return sums[i * vectors_]; };
    functions.column_constants(op, columns_, constants.data());
    const int64_t grain = grain_of(chunk * columns_);
    at::parallel_for(0, chunks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        functions.start_columns(op, columns_, sums_of(i));
        add(i * chunk, std::min((i + 1) * chunk, shape.length), sums_of(i), constants.data());
      }
    });
    for (int64_t i = 1; i < chunks; ++i) {
      functions.merge_columns(vectors_, sums_of(0), sums_of(i));
    }
    functions.finish_columns(op, columns_, sums.data(), formulas);
  }

  using Buffers = std::array<TileBuffer<T>, kMaxInputs>;

  Panel<T> panel_at(int64_t j, int64_t length, int64_t first = 0) const {
    Panel<T> panel;
    panel.type = in[0].type;
    panel.columns = columns_;
    panel.length = length;
    panel.next = length * columns_;
    for (int k = 0; k < inputs; ++k) {
      panel.in[k] = {element_at(in[k].data, in[k].type, j * columns_ + first), columns_};
    }
    return panel;
  }

  // Adds the elements [begin, end) of all columns.
  void add_chunk(int64_t begin, int64_t end, void* sums, const void* constants) const {
    if (direct_) {
      for (int64_t j = begin; j < end; j += kPanel) {
        functions.add_columns(op, panel_at(j, std::min(kPanel, end - j)), sums, constants);
      }
      return;
    }
    for_widened(begin, end, [&](const Panel<T>& panel, int64_t, int64_t first) {
      add_panel(panel, first, sums, constants);
    });
  }

  // Few rows at a time, while the next ones are prefetched.
  void add_and_map_chunk(
      int64_t begin, int64_t end, bool streamed, void* sums, const void* constants, const void* formulas
  ) const {
    const int64_t length = kPanelBytes / element_bytes(in[0].type);
    for (int64_t j = begin; j < end; j += length) {
      for (int64_t first = 0; first < columns_; first += kPanelWidth) {
        Panel<T> panel = panel_at(j, std::min(length, end - j), first);
        panel.columns = std::min(kPanelWidth, columns_ - first);
        panel.next = length * columns_;
        const int64_t i = first / kSize;
        functions.add_and_map_columns(
            op,
            panel,
            static_cast<char*>(sums) + i * functions.state_bytes,
            static_cast<const char*>(constants) + i * functions.constants_bytes,
            static_cast<const char*>(formulas) + i * functions.formula_bytes,
            {element_at(out.data, out.type, j * columns_ + first), columns_, streamed}
        );
      }
    }
  }

  // Adds a panel whose first column is `first`.
  void add_panel(const Panel<T>& panel, int64_t first, void* sums, const void* constants) const {
    functions.add_columns(
        op,
        panel,
        static_cast<char*>(sums) + first / kSize * functions.state_bytes,
        static_cast<const char*>(constants) + first / kSize * functions.constants_bytes
    );
  }

  // Elements of whole rows of the matrix are contiguous. They are mapped tile by tile and added panel by panel.
  void map_and_add_chunk(const TileMap<T>& map, int64_t begin, int64_t end, void* sums, const void* constants) const {
    const bool direct = direct_ && in[0].type == kTypeOf<T>;
    const int64_t length = direct ? kPanel : std::max<int64_t>(1, kTile / std::max<int64_t>(1, columns_));
    std::vector<T> written(direct ? 0 : length * columns_ + kTilePadding);
    Buffers buffers;
    for (int64_t j = begin; j < end; j += length) {
      Panel<T> panel;
      panel.columns = columns_;
      panel.length = std::min(length, end - j);
      panel.next = 0;
      void* const to = element_at(out.data, out.type, j * columns_);
      T* const y = direct ? static_cast<T*>(to) : written.data();
      const int64_t n = panel.length * columns_;
      for (int64_t i = 0; i < n; i += kTile) {
        const int64_t m = std::min(kTile, n - i), at = j * columns_ + i;
        const T* const a = load_tile(in[0].data, in[0].type, at, m, buffers[0].data);
        const T* const b = load_tile(in[1].data, in[1].type, at, m, buffers[1].data);
        map.function(map.op, m, a, b, y + i);
      }
      panel.in[0] = {y, columns_};
      functions.add_columns(op, panel, sums, constants);
      if (!direct) {
        store_tile(y, n, out.type, to);
      }
    }
  }

  // Calls f(panel, j, first) for panels of at most kTile widened elements, the first of which is element j of column
  // `first`. A panel has whole vectors of columns, unless it has the last column.
  template <class F>
  void for_widened(int64_t begin, int64_t end, const F& f) const {
    Buffers buffers;
    Panel<T> panel;
    const int64_t width = std::clamp<int64_t>(columns_, 1, kWidth),
                  length = std::max<int64_t>(1, (kTile - kWidth) / width);
    for (int64_t j = begin; j < end; j += length) {
      panel.length = std::min(length, end - j);
      for (int64_t first = 0; first < columns_; first += width) {
        panel.columns = std::min(width, columns_ - first);
        panel.next = 0;
        for (int k = 0; k < inputs; ++k) {
          panel.in[k] = widened(in[k], j, first, panel, buffers[k]);
        }
        f(panel, j, first);
      }
    }
  }

  typename Inputs<T>::Input widened(
      const RowOperand& x, int64_t j, int64_t first, const Panel<T>& panel, TileBuffer<T>& buffer
  ) const {
    if (x.type == kTypeOf<T>) {
      return {element_at(x.data, x.type, j * columns_ + first), columns_};
    }
    if (panel.columns == columns_) {
      return {load_tile(x.data, x.type, j * columns_, panel.length * columns_, buffer.data), columns_};
    }
    for (int64_t i = 0; i < panel.length; ++i) {
      load_tile(x.data, x.type, (j + i) * columns_ + first, panel.columns, buffer.data + i * panel.columns);
    }
    return {buffer.data, panel.columns};
  }

  void map_range(int64_t begin, int64_t end, bool streamed, void* formulas) const {
    if (direct_ && out.type == in[0].type) {
      void* const to = element_at(out.data, out.type, begin * columns_);
      functions.map_columns(op, formulas, panel_at(begin, end - begin), {to, columns_, streamed});
      return;
    }
    TileBuffer<T> result;
    for_widened(begin, end, [&](const Panel<T>& panel, int64_t j, int64_t first) {
      const char* const of_columns = static_cast<char*>(formulas) + first / kSize * functions.formula_bytes;
      functions.map_columns(op, of_columns, panel, {result.data, panel.columns});
      for (int64_t i = 0; i < panel.length; ++i) {
        void* const to = element_at(out.data, out.type, (j + i) * columns_ + first);
        store_tile(result.data + i * panel.columns, panel.columns, out.type, to);
      }
    });
  }

  int64_t columns_, vectors_;
  bool direct_ = true;  // whether all inputs have one type
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
