// Each lane of a vector is a State of its own. Rows are reduced in pieces of a fixed size: whole rows go to the
// threads, or pieces if there are fewer rows than threads, with the same result. Short and interleaved rows are
// processed several at a time instead, as vectors of one row or with one row per lane (docs/decisions/short-rows.md).
#include "loops/cpu/rows.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "loops/cpu/parallel.h"
#include "loops/cpu/tile.h"

namespace torchnotes {
namespace {

constexpr int64_t kPiece = 32768;              // elements; large enough that merging the lanes costs nothing
constexpr int64_t kPrescanned = 4096;          // elements; small enough to stay in L1
constexpr int64_t kFetched = 1024;             // elements
constexpr int64_t kShort = 48;                 // elements; the crossover point: longer rows are faster one by one
constexpr int64_t kLongestShort = 4096;        // elements of a row that is processed together with others
constexpr int64_t kNeighbors = 64;             // interleaved rows that one thread processes at a time
constexpr int64_t kLongestInterleaved = 2048;  // elements of a row that stays in L2 together with its neighbors
// Elements of short rows that are processed together (docs/decisions/short-rows.md). Passes that are limited by
// arithmetic share what follows a row; others read one row after the other, as the processor's prefetcher expects.
constexpr int64_t kSharedRows = 4096, kRowByRow = 512;
constexpr int64_t kLaneTile = 64;  // elements of interleaved rows that are copied at a time

template <class T>
class Rows {
  static constexpr int64_t kSize = Vectorized<T>::size();

 public:
  explicit Rows(const RowPass<T>& pass)
      : shape(pass.shape), functions(pass.functions), op(pass.op), in(pass.in), inputs(pass.inputs), out(pass.out) {
    for (int k = 0; k < inputs; ++k) {
      direct_ = direct_ && in[k].type == (functions.widened ? kTypeOf<T> : in[0].type);
    }
    maps_in_place_ = direct_ && out.type == in[0].type;
    type_ = direct_ ? in[0].type : kTypeOf<T>;
  }

  void reduce() const {
    if (process_several()) {
      return;
    }
    if (one_row_per_lane()) {
      for_lanes([&](Lanes& lanes) { lanes.reduce(); });
      return;
    }
    if (is_one_run()) {
      for_runs([&](int64_t row, const Run<T>& run) {
        StateMemory formula;
        reduce_run(row, run, formula);
      });
      return;
    }
    const auto parts = split_parts();
    for_rows([&](int64_t row) {
      StateMemory formula;
      finish_row(row, parts, formula);
    });
  }

  void map() const {
    if (process_several()) {
      return;
    }
    if (one_row_per_lane()) {
      for_lanes([&](Lanes& lanes) {
        lanes.find_formulas();
        lanes.map();
      });
      return;
    }
    map_by(split(), [&](int64_t row, StateMemory& formula) { functions.formula(op, row, 1, &formula); });
  }

  void transform() const {
    if (process_several()) {
      return;
    }
    if (one_row_per_lane()) {
      for_lanes([&](Lanes& lanes) {
        lanes.reduce();
        lanes.map();
      });
      return;
    }
    if (is_one_run() && maps_in_place_) {
      for_runs([&](int64_t row, const Run<T>& run) {
        StateMemory formula;
        const VectorMemory vectors = reduce_run(row, run, formula);
        functions.map(op, &vectors, run, {element_at(out.data, out.type, out.offset(row, 0)), 0});
        patch(row, formula);
      });
      return;
    }
    const auto parts = split_parts();
    map_by(split(), [&](int64_t row, StateMemory& formula) { finish_row(row, parts, formula); });
  }

 private:
  using Buffers = std::array<TileBuffer<T>, kMaxInputs>;

  int64_t elements() const { return shape.elements(); }

  // The least number of tasks of `elements` elements each that are worth a thread.
  int64_t grain_of(int64_t elements) const {
    return torchnotes::grain_of(elements, functions.prescans ? kExponentialGrain : kGrain);
  }

  // Calls f(row) for every row, in parallel.
  template <class F>
  void for_rows(const F& f) const {
    at::parallel_for(0, shape.rows, grain_of(elements()), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        f(row);
      }
    });
  }

  // Makes all passes over several rows at a time, if the operation and the rows permit it. Returns whether it did.
  bool process_several() const {
    if (are_short()) {
      for_short_rows();
      return true;
    }
    if (are_neighbors()) {
      for_interleaved_rows();
      return true;
    }
    if (are_few_neighbors()) {
      for_separated_rows();
      return true;
    }
    return false;
  }

  // ---- short rows, some at a time ----

  bool are_short() const {
    return functions.short_rows != nullptr && shape.interleaved == 1 && shape.length >= kShortestShort<T> &&
           shape.length <= kLongestShort && direct_ && (out.data == nullptr || maps_in_place_);
  }

  void for_short_rows() const {
    ShortRows<T> all;
    all.type = type_;
    all.length = shape.length;
    all.together = std::clamp<int64_t>((functions.prescans ? kSharedRows : kRowByRow) / shape.length, 1, kSize);
    at::parallel_for(0, shape.rows, grain_of(shape.length), [&](int64_t begin, int64_t end) {
      const auto buffer = std::make_unique_for_overwrite<T[]>(all.together * std::max(kSize, shape.length));
      ShortRows<T> rows = all;
      rows.buffer = buffer.get();
      rows.rows = end - begin;
      for (int k = 0; k < inputs; ++k) {
        rows.in[k] = {element_at(in[k].data, type_, in[k].offset(begin, 0)), in[k].row_stride};
      }
      functions.short_rows(op, begin, rows, {element_at(out.data, out.type, out.offset(begin, 0)), out.row_stride});
    });
  }

  // ---- interleaved rows where they are ----

  bool are_neighbors() const {
    bool in_place = functions.interleaved_rows != nullptr && direct_ && shape.interleaved >= kSize &&
                    shape.length <= kLongestInterleaved;
    const bool overlaps = shape.interleaved % kSize != 0;  // and so reads again what it may have written
    for (int k = 0; k < inputs; ++k) {
      in_place = in_place && in[k].interleaved > 1 && !(overlaps && in[k].data == out.data);
    }
    return in_place && (out.data == nullptr || (out.interleaved > 1 && maps_in_place_));
  }

  void for_interleaved_rows() const {
    const int64_t per_outer = std::max<int64_t>(1, shape.interleaved / kNeighbors);
    const int64_t outer = shape.rows / shape.interleaved;
    at::parallel_for(0, outer * per_outer, grain_of(kNeighbors * shape.length), [&](int64_t begin, int64_t end) {
      const auto buffer = std::make_unique_for_overwrite<T[]>(inputs * shape.length * kNeighborVectors * kSize);
      InterleavedRows<T> rows;
      rows.type = type_;
      rows.length = shape.length;
      rows.buffer = buffer.get();
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % per_outer * kNeighbors, row = i / per_outer * shape.interleaved + first;
        rows.rows = i % per_outer == per_outer - 1 ? shape.interleaved - first : kNeighbors;
        for (int k = 0; k < inputs; ++k) {
          rows.in[k] = {element_at(in[k].data, type_, in[k].first(row)), in[k].interleaved};
        }
        void* const to = out.data == nullptr ? nullptr : element_at(out.data, out.type, out.first(row));
        functions.interleaved_rows(op, row, rows, {to, out.interleaved});
      }
    });
  }

  // ---- fewer interleaved rows than a vector has lanes: copied one after the other, and back ----

  bool are_few_neighbors() const {
    const auto interleaves = [&](const RowOperand& x) { return x.interleaved == shape.interleaved; };
    return functions.short_rows != nullptr && functions.patch_lanes == nullptr && shape.interleaved > 1 &&
           shape.interleaved < kSize && shape.length >= kSize && shape.length <= kLongestShort && direct_ &&
           std::all_of(in.begin(), in.begin() + inputs, interleaves) &&
           (out.data == nullptr || (interleaves(out) && maps_in_place_));
  }

  void for_separated_rows() const {
    const int64_t n = shape.interleaved * shape.length, bytes = element_bytes(type_);
    const auto copy =
        [&](const void* from, int64_t stride, int64_t next, void* to, int64_t to_stride, int64_t to_next) {
          for (int64_t i = 0; i < shape.interleaved; ++i) {
            copy_strided(
                bytes,
                element_at(from, type_, i * next),
                stride,
                element_at(to, type_, i * to_next),
                to_stride,
                shape.length
            );
          }
        };
    at::parallel_for(0, shape.rows / shape.interleaved, grain_of(n), [&](int64_t begin, int64_t end) {
      const auto buffer = std::make_unique_for_overwrite<T[]>((inputs + 2) * n);
      ShortRows<T> rows;
      rows.type = type_;
      rows.rows = rows.together = shape.interleaved;
      rows.length = shape.length;
      rows.buffer = buffer.get();
      T* const result = rows.buffer + n;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i * shape.interleaved;
        for (int k = 0; k < inputs; ++k) {
          T* const separated = result + (k + 1) * n;
          copy(element_at(in[k].data, type_, in[k].first(row)), shape.interleaved, 1, separated, 1, shape.length);
          rows.in[k] = {separated, shape.length};
        }
        functions.short_rows(op, row, rows, {result, shape.length});
        if (out.data != nullptr) {
          copy(result, 1, shape.length, element_at(out.data, type_, out.first(row)), shape.interleaved, 1);
        }
      }
    });
  }

  // A single row as well, whose bits do not depend on whether others are with it.
  bool one_row_per_lane() const { return shape.interleaved > 1 || shape.length <= kShort; }

  int64_t pieces() const { return at::ceil_div(elements(), kPiece); }

  // Whether the pieces of a row go to different threads: if there are more threads than rows.
  bool split() const { return pieces() > 1 && shape.rows < at::get_num_threads(); }

  // ---- one row in all lanes ----

  int64_t longest_run() const { return functions.prescans ? kPrescanned : kPiece; }

  // Whether a row is a single run, which is worth a path without any detours.
  bool is_one_run() const { return direct_ && shape.length <= longest_run() && !split() && shape.length > 0; }

  // Calls f(row, run) for every row, in parallel.
  template <class F>
  void for_runs(const F& f) const {
    at::parallel_for(0, shape.rows, grain_of(shape.length), [&](int64_t begin, int64_t end) {
      Run<T> run;
      run.type = type_;
      run.n = shape.length / kSize;
      run.tail = shape.length % kSize;
      run.ahead = shape.length;
      for (int64_t row = begin; row < end; ++row) {
        for (int k = 0; k < inputs; ++k) {
          run.in[k] = {element_at(in[k].data, type_, in[k].offset(row, 0)), 0};
        }
        f(row, run);
      }
    });
  }

  VectorMemory reduce_run(int64_t row, const Run<T>& run, StateMemory& formula) const {
    AccumulatorMemory unused;
    VectorMemory vectors;
    functions.reduce(op, row, run, {true, true, true}, unused, formula, vectors);
    return vectors;
  }

  void patch(int64_t row, const StateMemory& formula) const {
    if (functions.patch != nullptr) {
      functions.patch(op, row, 1, &formula);
    }
  }

  // Calls f(run, last) for runs of the elements [begin, end) of a row.
  template <class F>
  void for_parts(int64_t row, int64_t begin, int64_t end, const F& f) const {
    Buffers buffers;
    Run<T> run;
    const auto call = [&](int64_t n, bool last) {
      run.n = n / kSize;
      run.tail = n % kSize;
      f(run, last);
    };
    if (begin == end) {
      for (int k = 0; k < inputs; ++k) {
        run.in[k] = {buffers[k].data, 0};
      }
      call(0, true);
    } else {
      const int64_t limit = direct_ ? longest_run() : kTile;
      for (int64_t i = begin; i < end; i += limit) {
        const int64_t n = std::min(limit, end - i);
        load(row, i, n, direct_, buffers, run);
        run.ahead = !direct_ ? 0 : functions.prescans ? n : kFetched;
        call(n, i + n == end);
      }
    }
  }

  // The inputs of a run, where they are or as widened copies.
  void load(int64_t row, int64_t offset, int64_t n, bool direct, Buffers& buffers, Run<T>& run) const {
    run.type = direct ? type_ : kTypeOf<T>;
    for (int k = 0; k < inputs; ++k) {
      const int64_t at = in[k].offset(row, 0) + offset;
      run.in[k].data =
          direct ? element_at(in[k].data, in[k].type, at) : load_tile(in[k].data, in[k].type, at, n, buffers[k].data);
    }
  }

  void reduce_piece(int64_t row, int64_t begin, int64_t end, bool finishes, StateMemory& result) const {
    AccumulatorMemory sums;
    VectorMemory unused;
    bool first = true;
    for_parts(row, begin, end, [&](const Run<T>& run, bool last) {
      functions.reduce(op, row, run, {first, last, finishes}, sums, result, unused);
      first = false;
    });
  }

  // Calls f(row, i, begin, end) for the i-th piece of every row, in parallel.
  template <class F>
  void for_pieces(const F& f) const {
    at::parallel_for(0, shape.rows * pieces(), grain_of(kPiece), [&](int64_t first, int64_t last) {
      for (int64_t at = first; at < last; ++at) {
        const int64_t row = at / pieces(), i = at % pieces();
        f(row, i, i * kPiece, std::min((i + 1) * kPiece, elements()));
      }
    });
  }

  // The states of the pieces of all rows, if several threads reduce a row, otherwise nothing.
  std::vector<StateMemory> split_parts() const {
    std::vector<StateMemory> parts;
    if (split()) {
      parts.resize(shape.rows * pieces());
      for_pieces([&](int64_t row, int64_t i, int64_t begin, int64_t end) {
        reduce_piece(row, begin, end, /*finishes=*/false, parts[row * pieces() + i]);
      });
    }
    return parts;
  }

  void finish_row(int64_t row, const std::vector<StateMemory>& parts, StateMemory& formula) const {
    if (pieces() <= 1) {
      reduce_piece(row, 0, elements(), /*finishes=*/true, formula);
      return;
    }
    const auto part = [&](int64_t i) {
      if (!parts.empty()) {
        return parts[row * pieces() + i];
      }
      StateMemory state;
      reduce_piece(row, i * kPiece, std::min((i + 1) * kPiece, elements()), /*finishes=*/false, state);
      return state;
    };
    StateMemory all = part(0);
    for (int64_t i = 1; i < pieces(); ++i) {
      functions.merge(all, part(i));
    }
    functions.finish(op, row, all, formula);
  }

  void map_piece(const void* vectors, int64_t row, int64_t begin, int64_t end) const {
    Buffers buffers;
    TileBuffer<T> result;
    Run<T> run;
    const int64_t limit = maps_in_place_ ? kPiece : kTile;
    for (int64_t i = begin; i < end; i += limit) {
      const int64_t n = std::min(limit, end - i);
      load(row, i, n, maps_in_place_, buffers, run);
      run.n = n / kSize;
      run.tail = n % kSize;
      void* const to = element_at(out.data, out.type, out.offset(row, 0) + i);
      if (maps_in_place_) {
        functions.map(op, vectors, run, {to, 0});
      } else {
        functions.map(op, vectors, run, {result.data, 0});
        store_tile(result.data, n, out.type, to);
      }
    }
  }

  // formula_of(row, formula) obtains the Formula that the second pass over a row needs.
  template <class FormulaOf>
  void map_by(bool split, const FormulaOf& formula_of) const {
    if (!split) {
      for_rows([&](int64_t row) {
        StateMemory formula;
        VectorMemory vectors;
        formula_of(row, formula);
        functions.pack(&formula, /*same=*/true, &vectors, 0);
        map_piece(&vectors, row, 0, elements());
        patch(row, formula);
      });
      return;
    }
    std::vector<StateMemory> formulas(shape.rows);
    VectorArray vectors(shape.rows, functions.formula_bytes);
    for (int64_t row = 0; row < shape.rows; ++row) {
      formula_of(row, formulas[row]);
      functions.pack(&formulas[row], /*same=*/true, vectors.data(), row);
    }
    for_pieces([&](int64_t row, int64_t, int64_t begin, int64_t end) { map_piece(vectors[row], row, begin, end); });
    for (int64_t row = 0; row < shape.rows; ++row) {
      patch(row, formulas[row]);
    }
  }

  // ---- one row per lane ----

  class Lanes;

  // Calls f(lanes) for groups of neighboring rows, in parallel.
  template <class F>
  void for_lanes(const F& f) const {
    const int64_t together = shape.interleaved > 1 ? shape.interleaved : shape.rows;
    const int64_t groups = at::ceil_div(together, kSize), outer = together == 0 ? 0 : shape.rows / together;
    at::parallel_for(0, outer * groups, grain_of(kSize * shape.length), [&](int64_t begin, int64_t end) {
      Lanes lanes(*this);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % groups * kSize;
        lanes.go_to(i / groups * together + first, std::min(kSize, together - first));
        f(lanes);
      }
    });
  }

  // n rows from `row` on. Their elements are read where they are if one load fills a vector. Otherwise they are copied
  // to buffers, one vector for element j of all rows.
  class Lanes {
   public:
    explicit Lanes(const Rows& rows) : rows_(rows) {
      bool in_place = rows.direct_;
      for (int k = 0; k < rows.inputs; ++k) {
        in_place = in_place && rows.in[k].interleaved > 1;
      }
      reduced_as_ = in_place ? rows.type_ : kTypeOf<T>;
      mapped_as_ = rows.out.interleaved > 1 && rows.out.type == reduced_as_ ? reduced_as_ : kTypeOf<T>;
      broadcast_.fill(-1);
    }

    void go_to(int64_t row, int64_t n) {
      row_ = row;
      n_ = n;
      loaded_ = -1;
      if (n < kSize) {
        std::memset(buffers_, 0, sizeof(buffers_));  // the other lanes
        broadcast_.fill(-1);
      }
    }

    void reduce() {
      for_tiles(reduced_as_, /*fits=*/true, [&](int64_t j) {
        const Step step{j == 0, j + run_.n == rows_.shape.length, true};
        rows_.functions.reduce_lanes(rows_.op, row_, n_, run_, step, sums_, formulas_.data(), vectors_);
      });
    }

    void find_formulas() {
      if (rows_.functions.formula_lanes != nullptr) {
        rows_.functions.formula_lanes(rows_.op, row_, n_, &vectors_);
        return;
      }
      rows_.functions.formula(rows_.op, row_, n_, formulas_.data());
      std::fill(formulas_.begin() + n_, formulas_.end(), formulas_[0]);
      rows_.functions.pack(formulas_.data(), /*same=*/false, &vectors_, 0);
    }

    void map() {
      const RowOperand& out = rows_.out;
      const bool in_place = is_in_place(out, mapped_as_);
      loaded_ = mapped_as_ == reduced_as_ ? loaded_ : -1;
      for_tiles(mapped_as_, /*fits=*/in_place, [&](int64_t j) {
        if (in_place) {
          void* const y = element_at(out.data, out.type, out.first(row_) + j * out.interleaved);
          rows_.functions.map_lanes(rows_.op, &vectors_, run_, {y, out.interleaved});
        } else {
          rows_.functions.map_lanes(rows_.op, &vectors_, run_, {result_, kSize});
          store(j);
        }
      });
      if (rows_.functions.patch_lanes != nullptr) {
        rows_.functions.patch_lanes(rows_.op, row_, n_, &vectors_);
      } else if (rows_.functions.patch != nullptr) {
        rows_.functions.patch(rows_.op, row_, n_, formulas_.data());
      }
    }

   private:
    bool is_in_place(const RowOperand& x, c10::ScalarType type) const {
      return n_ == kSize && x.interleaved > 1 && x.type == type;
    }

    static bool is_same(const RowOperand& x, const RowOperand& y) {
      return x.data == y.data && x.type == y.type && x.row_stride == y.row_stride;
    }

    // Calls f(j) with `run_` at the elements from j on, at least once. `fits`: whether the output has room for runs of
    // any length.
    template <class F>
    void for_tiles(c10::ScalarType type, bool fits, const F& f) {
      run_.type = n_ == kSize ? type : kTypeOf<T>;
      for (int k = 0; k < rows_.inputs; ++k) {
        fits = fits && is_in_place(rows_.in[k], run_.type);
      }
      const int64_t length = rows_.shape.length, limit = fits ? length : kLaneTile;
      int64_t j = 0;
      do {
        run_.n = std::min(limit, length - j);
        for (int k = 0; k < rows_.inputs; ++k) {
          const RowOperand& x = rows_.in[k];
          if (k > 0 && is_same(x, rows_.in[k - 1])) {
            run_.in[k] = run_.in[k - 1];
          } else if (is_in_place(x, run_.type)) {
            run_.in[k] = {element_at(x.data, x.type, x.first(row_) + j * x.interleaved), x.interleaved};
          } else {
            if (loaded_ != j && broadcast_[k] != j) {
              copy(x, j, k);
              broadcast_[k] = x.row_stride == 0 ? j : -1;
            }
            run_.in[k] = {buffers_[k], kSize};
          }
        }
        loaded_ = j;
        f(j);
        j += run_.n;
      } while (j < length);
    }

    // Whether a group of short rows is transposed to a buffer, and back.
    bool transposes(const RowOperand& x) const {
      return x.type == kTypeOf<T> && x.interleaved == 1 && x.row_stride != 0 && n_ == kSize;
    }

    void copy(const RowOperand& x, int64_t j, int k) {
      if (transposes(x)) {
        const T* const from = static_cast<const T*>(x.data) + x.offset(row_, 0) + j;
        transpose(from, x.row_stride, kSize, run_.n, buffers_[k], kSize);
        return;
      }
      with_element_type(x.type, [&](auto zero) {
        using scalar_t = decltype(zero);
        if constexpr (sizeof(scalar_t) <= sizeof(T)) {
          const auto* const data = static_cast<const scalar_t*>(x.data);
          if (x.row_stride == 0) {  // shared by all rows
            for (int64_t i = 0; i < run_.n; ++i) {
              std::fill_n(buffers_[k] + i * kSize, kSize, static_cast<T>(data[j + i]));
            }
          } else if (x.interleaved == 1) {
            for (int64_t lane = 0; lane < n_; ++lane) {
              const scalar_t* const from = data + x.offset(row_ + lane, 0) + j;
              for (int64_t i = 0; i < run_.n; ++i) {
                buffers_[k][i * kSize + lane] = static_cast<T>(from[i]);
              }
            }
          } else {
            const scalar_t* from = data + x.first(row_) + j * x.interleaved;
            for (int64_t i = 0; i < run_.n; ++i, from += x.interleaved) {
              for (int64_t lane = 0; lane < n_; ++lane) {
                buffers_[k][i * kSize + lane] = static_cast<T>(from[lane]);
              }
            }
          }
        }
      });
    }

    void store(int64_t j) {
      const RowOperand& out = rows_.out;
      if (transposes(out)) {
        T* const to = static_cast<T*>(out.data) + out.offset(row_, 0) + j;
        transpose(result_, kSize, run_.n, kSize, to, out.row_stride);
        return;
      }
      with_element_type(out.type, [&](auto zero) {
        using scalar_t = decltype(zero);
        if constexpr (sizeof(scalar_t) <= sizeof(T)) {
          auto* const data = static_cast<scalar_t*>(out.data);
          const int64_t across = out.interleaved > 1 ? 1 : out.row_stride;
          for (int64_t lane = 0; lane < n_; ++lane) {
            scalar_t* const to = data + out.first(row_) + lane * across + j * out.interleaved;
            for (int64_t i = 0; i < run_.n; ++i) {
              to[i * out.interleaved] = static_cast<scalar_t>(result_[i * kSize + lane]);
            }
          }
        }
      });
    }

    const Rows& rows_;
    int64_t row_, n_;
    int64_t loaded_;                             // the first of the elements that the buffers hold, or -1
    std::array<int64_t, kMaxInputs> broadcast_;  // the same, of rows that all lanes share
    c10::ScalarType reduced_as_, mapped_as_;
    LaneRun<T> run_;
    AccumulatorMemory sums_;
    std::array<StateMemory, kSize> formulas_;
    VectorMemory vectors_;
    alignas(64) T buffers_[kMaxInputs][kLaneTile * kSize];
    alignas(64) T result_[kLaneTile * kSize];
  };

  const RowShape& shape;
  const RowFunctions<T>& functions;
  const void* const op;
  const std::array<RowOperand, kMaxInputs>& in;
  const int inputs;
  const RowOperand& out;
  bool direct_ = true, maps_in_place_;  // whether all inputs have one type, and the output as well
  c10::ScalarType type_;                // that type, or T
};

}  // namespace

void reduce_rows(const RowPass<float>& pass) { Rows(pass).reduce(); }
void reduce_rows(const RowPass<double>& pass) { Rows(pass).reduce(); }
void map_rows(const RowPass<float>& pass) { Rows(pass).map(); }
void map_rows(const RowPass<double>& pass) { Rows(pass).map(); }
void transform_rows(const RowPass<float>& pass) { Rows(pass).transform(); }
void transform_rows(const RowPass<double>& pass) { Rows(pass).transform(); }

}  // namespace torchnotes
