// The driver of elementwise operations whose operands may broadcast (broadcast.h): map_elements writes F(a_i, b_i, ...)
// for every element, sum_elements adds them up without writing them.
//
// Blocks of elements go through the vector code of map.h, in float for bfloat16 and half. An operand that is not
// contiguous there is copied into a buffer that stays in cache; the next block reuses the copy if it has the same
// values. The order of additions is fixed by the shape: pieces of a fixed size are added up in vectors, lane by lane,
// and the sums of the pieces in double.
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include <array>
#include <numeric>
#include <tuple>
#include <vector>

#include "../broadcast.h"
#include "../formulas/weighted.h"
#include "rows.h"

namespace torchnotes {
namespace {

constexpr int64_t kElements = 1024;  // elements of a block, at most
constexpr int64_t kBlocks = 4;       // blocks of a piece

// Converts n contiguous elements to the accumulation type. May write up to one vector past the end of `to`.
template <class T>
inline void widen(const T* from, int64_t n, at::opmath_type<T>* to) {
  constexpr int64_t kSize = Lanes<T>::size();
  int64_t i = 0;
  for (; i + kSize <= n; i += kSize) {
    load_lanes(from + i).store(to + i);
  }
  if (i < n) {
    load_lanes(from + i, n - i).store(to + i);
  }
}

template <class T>
inline void narrow(const float* from, int64_t n, T* to) {
  using V = Vectorized<float>;
  constexpr int64_t kSize = V::size();
  int64_t i = 0;
  for (; i + 2 * kSize <= n; i += 2 * kSize) {
    at::vec::convert_from_float<T>(V::loadu(from + i), V::loadu(from + i + kSize)).store(to + i);
  }
  if (i < n) {  // `from` is readable to the end of the vector
    at::vec::convert_from_float<T>(V::loadu(from + i), V::loadu(from + i + kSize)).store(to + i, n - i);
  }
}

template <class acc_t>
using Block = std::array<acc_t, kElements + 2 * Vectorized<acc_t>::size()>;

// Reads an operand block by block.
template <class T>
class BlockReader {
  using acc_t = at::opmath_type<T>;
  using V = Vectorized<acc_t>;

 public:
  explicit BlockReader(const Broadcast<T>& x) : x_(x) {}

  // The elements [i, i + n) as a contiguous array, valid until the next call.
  const acc_t* block(int64_t i, int64_t n) {
    const int64_t first = i / x_.repeats % x_.count;
    if constexpr (!is_half<T>) {
      if (x_.repeats == 1 && first + n <= x_.count) {
        return x_.data + first;
      }
    }
    if (x_.repeats == 1 && (first != first_ || n > n_)) {
      copy_run(first, n);
    } else if (x_.repeats != 1) {
      copy_each(first, i % x_.repeats, n);
    }
    first_ = first;
    n_ = n;
    return copy_.data();
  }

 private:
  void copy_run(int64_t at, int64_t n) {
    for (int64_t done = 0; done < n; at = 0) {
      const int64_t some = std::min(x_.count - at, n - done);
      widen(x_.data + at, some, copy_.data() + done);
      done += some;
    }
  }

  // Stores whole vectors past the end of a run; the next run overwrites the excess.
  void copy_each(int64_t at, int64_t passed, int64_t n) {
    for (int64_t done = 0; done < n;) {
      const V number(static_cast<acc_t>(x_.data[at]));
      const int64_t some = std::min(x_.repeats - passed, n - done);
      for (int64_t i = 0; i < some; i += V::size()) {
        number.store(copy_.data() + done + i);
      }
      done += some;
      passed = 0;
      at = at + 1 < x_.count ? at + 1 : 0;
    }
  }

  Broadcast<T> x_;
  int64_t first_ = -1, n_ = 0;
  Block<acc_t> copy_;
};

// Chooses the size of a block. If an operand repeats within a block, a block holds whole periods, so that all blocks
// are alike, and whole vectors if they fit.
template <class acc_t, class... T>
int64_t block_size(const Broadcast<T>&... in) {
  int64_t period = 1;
  for (const int64_t count : {in.repeats * in.count...}) {
    period = count <= kElements ? std::max(period, count) : period;
  }
  const int64_t whole = std::lcm(period, Vectorized<acc_t>::size());
  return whole <= kElements ? kElements / whole * whole : kElements / period * period;
}

template <class F, class acc_t, size_t... I>
inline void map_block(
    const F& f, acc_t* out, int64_t n, std::array<const acc_t*, sizeof...(I)> in, std::index_sequence<I...> inputs
) {
  map_contiguous<sizeof...(I), acc_t>(f, {out, const_cast<acc_t*>(in[I])...}, n, inputs);
}

// make() returns F.
template <class Make, class scalar_t, class... T>
void map_elements(c10::Device, const Make& make, int64_t n, scalar_t* out, const Broadcast<T>&... in) {
  using acc_t = at::opmath_type<scalar_t>;
  const auto f = make();
  const int64_t size = block_size<acc_t>(in...);
  at::parallel_for(0, at::ceil_div(n, size), at::ceil_div(at::internal::GRAIN_SIZE, size), [&](int64_t b, int64_t end) {
    std::tuple<BlockReader<T>...> sources(in...);
    Block<acc_t> result;
    for (; b < end; ++b) {
      const int64_t i = b * size, m = std::min(size, n - i);
      const std::array<const acc_t*, sizeof...(T)> blocks =
          std::apply([&](auto&... source) { return std::array{source.block(i, m)...}; }, sources);
      const auto inputs = std::make_index_sequence<sizeof...(T)>{};
      if constexpr (is_half<scalar_t>) {
        map_block(f, result.data(), m, blocks, inputs);
        narrow(result.data(), m, out + i);
      } else {
        map_block(f, out + i, m, blocks, inputs);
      }
    }
  });
}

// Calls finish(sum) with the sum of the Weighted values F(a_i, b_i, ...).
template <class F, class Finish, class... T>
void sum_elements(c10::Device, const F& f, const Finish& finish, int64_t n, const Broadcast<T>&... in) {
  using acc_t = std::common_type_t<at::opmath_type<T>...>;
  using V = Vectorized<acc_t>;
  const int64_t size = block_size<acc_t>(in...), piece = kBlocks * size;
  const auto sum_piece = [&](std::tuple<BlockReader<T>...>& sources, int64_t begin) {
    auto sums = vector_states<V>(Weighted<V>{V(0), V(0)});
    const auto add = [&f](Weighted<V>& sum, const auto&... x) { sum.merge(f(x...)); };
    for (int64_t i = begin; i < std::min(begin + piece, n); i += size) {
      const int64_t m = std::min(size, n - i);
      std::apply([&](auto&... source) { sums.template add<false>(add, m, 0, source.block(i, m)...); }, sources);
    }
    const auto all = sums.merged_into(Weighted<acc_t>{0, 0});
    return Weighted<double>{all.loss, all.weight};
  };
  Weighted<double> all{0, 0};
  if (n <= piece) {
    std::tuple<BlockReader<T>...> sources(in...);
    all = sum_piece(sources, 0);
  } else {
    std::vector<Weighted<double>> pieces(at::ceil_div(n, piece));
    at::parallel_for(0, pieces.size(), at::ceil_div(at::internal::GRAIN_SIZE, piece), [&](int64_t i, int64_t end) {
      std::tuple<BlockReader<T>...> sources(in...);
      for (; i < end; ++i) {
        pieces[i] = sum_piece(sources, i * piece);
      }
    });
    for (const auto& one : pieces) {
      all.merge(one);
    }
  }
  finish(all);
}

}  // namespace
}  // namespace torchnotes
