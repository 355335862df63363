// Operands with different layouts are copied to tiles and back, unless they are contiguous there.
#include "loops/cpu/map.h"

#include <algorithm>
#include <array>

#include "loops/cpu/parallel.h"
#include "loops/cpu/tile.h"

namespace torchnotes {
namespace {

// The offsets of the operands of an element, which count upwards.
class Position {
 public:
  Position(const MapLayout& layout, int count, int64_t element) : layout_(layout), count_(count) {
    for (int d = 0; d < layout.dims; ++d) {
      index_[d] = element % layout.sizes[d];
      element /= layout.sizes[d];
      move(d, index_[d]);
    }
  }

  int64_t operator[](int k) const { return offset_[k]; }
  int64_t left_in_row() const { return layout_.sizes[0] - index_[0]; }

  // Goes n elements ahead, at most to the end of the innermost dimension.
  void advance(int64_t n) {
    index_[0] += n;
    move(0, n);
    for (int d = 0; d + 1 < layout_.dims && index_[d] == layout_.sizes[d]; ++d) {
      move(d, -index_[d]);
      index_[d] = 0;
      ++index_[d + 1];
      move(d + 1, 1);
    }
  }

 private:
  void move(int d, int64_t n) {
    for (int k = 0; k < count_; ++k) {
      offset_[k] += n * layout_.strides[k][d];
    }
  }

  const MapLayout& layout_;
  int count_;
  std::array<int64_t, MapLayout::kMaxDims> index_{};
  std::array<int64_t, 1 + kMaxMapInputs> offset_{};
};

template <class T>
VectorMemory packed_formula(const RowFunctions<T>& functions, const void* op) {
  StateMemory formula;
  functions.formula(op, 0, 1, &formula);
  VectorMemory packed;
  functions.pack(&formula, /*same=*/true, &packed, 0);
  return packed;
}

template <class T>
void map_dense(const RowFunctions<T>& functions, const void* op, int inputs, const MapOperands& operands) {
  constexpr int64_t kSize = Vectorized<T>::size();
  at::parallel_for(0, operands.n, grain_of(1), [&](int64_t begin, int64_t end) {
    const VectorMemory formula = packed_formula(functions, op);
    Run<T> run;
    run.type = operands.type;
    run.n = (end - begin) / kSize;
    run.tail = (end - begin) % kSize;
    for (int k = 0; k < inputs; ++k) {
      run.in[k] = {element_at(operands.in[k], operands.type, begin), 0};
    }
    functions.map(op, &formula, run, {element_at(operands.out, operands.type, begin), 0});
  });
}

template <class T>
void map_strided(const RowFunctions<T>& functions, const void* op, int inputs, const MapOperands& operands) {
  constexpr int64_t kSize = Vectorized<T>::size();
  const int64_t bytes = element_bytes(operands.type);
  const MapLayout& layout = *operands.layout;
  at::parallel_for(0, at::ceil_div(operands.n, kTile), grain_of(kTile), [&](int64_t begin, int64_t end) {
    std::array<TileBuffer<T>, 1 + kMaxMapInputs> buffers;
    const VectorMemory formula = packed_formula(functions, op);
    Run<T> run;
    run.type = operands.type;
    Position at(layout, 1 + inputs, begin * kTile), written = at;
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t n = std::min(kTile, operands.n - tile * kTile);
      const bool one_row = n <= at.left_in_row();
      const auto in_place = [&](int k) { return one_row && layout.strides[k][0] == 1; };
      for (int k = 0; k < inputs; ++k) {
        const void* const there = element_at(operands.in[k], operands.type, at[1 + k]);
        run.in[k] = {in_place(1 + k) ? there : buffers[1 + k].data, 0};
      }
      for (int64_t i = 0, m; i < n; i += m) {
        m = std::min(n - i, at.left_in_row());
        for (int k = 0; k < inputs; ++k) {
          if (!in_place(1 + k)) {
            const void* const from = element_at(operands.in[k], operands.type, at[1 + k]);
            void* const to = element_at(static_cast<void*>(buffers[1 + k].data), operands.type, i);
            copy_strided(bytes, from, layout.strides[1 + k][0], to, 1, m);
          }
        }
        at.advance(m);
      }
      run.n = n / kSize;
      run.tail = n % kSize;
      if (in_place(0)) {
        functions.map(op, &formula, run, {element_at(operands.out, operands.type, written[0]), 0});
        written.advance(n);
        continue;
      }
      functions.map(op, &formula, run, {buffers[0].data, 0});
      for (int64_t i = 0, m; i < n; i += m) {
        m = std::min(n - i, written.left_in_row());
        const void* const from = element_at(static_cast<const void*>(buffers[0].data), operands.type, i);
        void* const to = element_at(operands.out, operands.type, written[0]);
        copy_strided(bytes, from, 1, to, layout.strides[0][0], m);
        written.advance(m);
      }
    }
  });
}

template <class T>
void map_all(const RowFunctions<T>& functions, const void* op, int inputs, const MapOperands& operands) {
  operands.layout == nullptr ? map_dense(functions, op, inputs, operands)
                             : map_strided(functions, op, inputs, operands);
}

}  // namespace

void map(const RowFunctions<float>& functions, const void* op, int inputs, const MapOperands& operands) {
  map_all(functions, op, inputs, operands);
}
void map(const RowFunctions<double>& functions, const void* op, int inputs, const MapOperands& operands) {
  map_all(functions, op, inputs, operands);
}

}  // namespace torchnotes
