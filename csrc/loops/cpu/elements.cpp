#include "loops/cpu/elements.h"

#include <numeric>
#include <vector>

#include "loops/cpu/parallel.h"
#include "loops/cpu/tile.h"

namespace torchnotes {
namespace {

constexpr int64_t kBlocksOfPiece = 16;

// Reads an operand block by block.
template <class T>
class BlockReader {
  using V = Vectorized<T>;

 public:
  void start(const BroadcastOperand& x, int64_t size) {
    x_ = x;
    broadcasts_ = x.count != size;
  }

  // The elements [i, i + n) as a contiguous array, valid until the next call.
  const T* block(int64_t i, int64_t n) {
    const int64_t first = broadcasts_ ? i / x_.repeats % x_.count : i;
    if (x_.repeats == 1 && x_.type == kTypeOf<T> && first + n <= x_.count) {
      return static_cast<const T*>(x_.data) + first;
    }
    if (x_.repeats == 1 && (first != first_ || n > n_)) {
      copy_run(first, n);
    } else if (x_.repeats != 1) {
      copy_each(first, i % x_.repeats, n);
    }
    first_ = first;
    n_ = n;
    return copy_.data;
  }

 private:
  // Copies one period, then what has been copied.
  void copy_run(int64_t at, int64_t n) {
    T* const copy = copy_.data;
    const int64_t first = std::min(x_.count - at, n), period = std::min(x_.count, n);
    copy_from(at, first, copy);
    copy_from(0, period - first, copy + first);
    for (int64_t done = period; done < n; done += std::min(done, n - done)) {
      std::copy_n(copy, std::min(done, n - done), copy + done);
    }
  }

  void copy_from(int64_t at, int64_t n, T* to) {
    const T* const from = load_tile(x_.data, x_.type, at, n, to);
    if (from != to) {
      std::copy_n(from, n, to);
    }
  }

  // Stores whole vectors past the end of a run; the next run overwrites the excess.
  void copy_each(int64_t at, int64_t passed, int64_t n) {
    T* const copy = copy_.data;
    for (int64_t done = 0; done < n;) {
      const V number(element(at));
      const int64_t some = std::min(x_.repeats - passed, n - done);
      for (int64_t i = 0; i < some; i += V::size()) {
        number.store(copy + done + i);
      }
      done += some;
      passed = 0;
      at = at + 1 < x_.count ? at + 1 : 0;
    }
  }

  T element(int64_t i) const {
    switch (x_.type) {
      case c10::ScalarType::Half:
        return static_cast<T>(static_cast<const c10::Half*>(x_.data)[i]);
      case c10::ScalarType::BFloat16:
        return static_cast<T>(static_cast<const c10::BFloat16*>(x_.data)[i]);
      default:
        return static_cast<const T*>(x_.data)[i];
    }
  }

  BroadcastOperand x_;
  bool broadcasts_;
  int64_t first_ = -1, n_ = 0;
  TileBuffer<T> copy_;
};

template <class T>
class BlockReaders {
 public:
  explicit BlockReaders(const ElementwiseInputs& in) : count_(in.count) {
    for (int k = 0; k < count_; ++k) {
      readers_[k].start(in.operands[k], in.size);
    }
  }

  BlockInputs<T> block(int64_t i, int64_t n) {
    BlockInputs<T> found;
    for (int k = 0; k < count_; ++k) {
      found[k] = readers_[k].block(i, n);
    }
    return found;
  }

 private:
  int count_;
  std::array<BlockReader<T>, kMaxOperands> readers_;
};

// Chooses the size of a block. If an operand repeats within a block, a block holds whole periods, so that all blocks
// are alike, and whole vectors if they fit.
template <class T>
int64_t block_size(const ElementwiseInputs& in) {
  int64_t period = 1;
  for (int k = 0; k < in.count; ++k) {
    const int64_t count = in.operands[k].repeats * in.operands[k].count;
    period = count <= kTile ? std::max(period, count) : period;
  }
  const int64_t whole = std::lcm<int64_t, int64_t>(period, Vectorized<T>::size());
  return whole <= kTile ? kTile / whole * whole : kTile / period * period;
}

template <class T>
void map_all(MapBlock<T> map, const void* formula, const ElementwiseInputs& in, c10::ScalarType type, void* out) {
  const int64_t size = block_size<T>(in), n = in.size;
  at::parallel_for(0, at::ceil_div(n, size), grain_of(size), [&](int64_t b, int64_t end) {
    BlockReaders<T> readers(in);
    TileBuffer<T> result;
    for (; b < end; ++b) {
      const int64_t i = b * size, m = std::min(size, n - i);
      void* const to = element_at(out, type, i);
      if (type == kTypeOf<T>) {
        map(formula, readers.block(i, m), m, static_cast<T*>(to));
      } else {
        map(formula, readers.block(i, m), m, result.data);
        store_tile(result.data, m, type, to);
      }
    }
  });
}

// The sums of a block are in the precision of its elements, the sums of blocks in double precision.
template <class T>
Weighted<double> sum_piece(
    SumBlock<T> sum, const void* formula, BlockReaders<T>& readers, int64_t begin, int64_t end, int64_t size
) {
  using V = Vectorized<T>;
  WideWeighted<V> lanes{widen(V(0)), widen(V(0))};
  for (int64_t i = begin; i < end; i += size) {
    const int64_t n = std::min(size, end - i);
    const Weighted<V> of_block = sum(formula, readers.block(i, n), n);
    lanes.add(of_block.loss, of_block.weight);
  }
  WideWeighted<T> all{0, 0};
  lanes.merge_lanes(all);
  return {all.loss, all.weight};
}

template <class T>
Weighted<double> sum_all(SumBlock<T> sum, const void* formula, const ElementwiseInputs& in) {
  const int64_t size = block_size<T>(in), piece = kBlocksOfPiece * size, n = in.size;
  if (n <= piece) {
    BlockReaders<T> readers(in);
    return sum_piece(sum, formula, readers, 0, n, size);
  }
  std::vector<Weighted<double>> pieces(at::ceil_div(n, piece));
  at::parallel_for(0, pieces.size(), grain_of(piece), [&](int64_t i, int64_t end) {
    BlockReaders<T> readers(in);
    for (; i < end; ++i) {
      pieces[i] = sum_piece(sum, formula, readers, i * piece, std::min((i + 1) * piece, n), size);
    }
  });
  Weighted<double> all{0, 0};
  for (const auto& one : pieces) {
    all.merge(one);
  }
  return all;
}

}  // namespace

void map_elements(MapBlock<float> map, const void* f, const ElementwiseInputs& in, c10::ScalarType type, void* out) {
  map_all(map, f, in, type, out);
}
void map_elements(MapBlock<double> map, const void* f, const ElementwiseInputs& in, c10::ScalarType type, void* out) {
  map_all(map, f, in, type, out);
}
Weighted<double> sum_elements(SumBlock<float> sum, const void* f, const ElementwiseInputs& in) {
  return sum_all(sum, f, in);
}
Weighted<double> sum_elements(SumBlock<double> sum, const void* f, const ElementwiseInputs& in) {
  return sum_all(sum, f, in);
}

}  // namespace torchnotes
