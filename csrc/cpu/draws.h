// The driver of random numbers: for_each_draw(store, draw, parts, out, in), for contiguous tensors, generates one
// number per element with a Draw of formulas/ and stores it in `out` as it is (Fill) or multiplied by the element of
// `in` (Multiply).
//
// Chunks go through buffers that stay in L1: words, then draws, then results. The loops over words and draws are plain,
// so that the compiler vectorizes them. They run to the end of a pair of rows even if the operands end earlier.
// Measured in docs/decisions/random-numbers.md.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ceil_div.h>

#include "../keys.h"
#include "map.h"
#include "words.h"

namespace torchnotes {
namespace {

constexpr int64_t kChunkWords = 4 * kGroup;
constexpr int64_t kAhead = 4;  // chunks

inline Bits<float> bits_at(const uint32_t* words, float) { return {words[0]}; }
inline Bits<double> bits_at(const uint32_t* words, double) { return {words[0], words[kPairDistance]}; }

// Writes n draws, rounded up to whole pairs.
template <class T, class Draw>
inline void write_draws(T* out, const uint32_t* words, const Draw draw, int64_t n) {
  constexpr int kRow = kPairDistance * sizeof(T) / sizeof(uint32_t);  // the words of 16 elements
  for (int64_t i = 0; i < n; i += 2 * kPairDistance, words += 2 * kRow) {
    for (int lane = 0; lane < kPairDistance; ++lane) {
      const Pair<T> pair = draw(bits_at(words + lane, T()), bits_at(words + kRow + lane, T()));
      out[i + lane] = pair.first;
      out[i + kPairDistance + lane] = pair.second;
    }
  }
}

template <class scalar_t>
inline Vectorized<scalar_t> load_draws(const at::opmath_type<scalar_t>* draws) {
  if constexpr (is_half<scalar_t>) {
    constexpr int kLanes = Vectorized<float>::size();
    return at::vec::convert_from_float<scalar_t>(
        Vectorized<float>::loadu(draws), Vectorized<float>::loadu(draws + kLanes)
    );
  } else {
    return Vectorized<scalar_t>::loadu(draws);
  }
}

template <class scalar_t>
inline Vectorized<scalar_t> times_draws(const Vectorized<scalar_t>& x, const at::opmath_type<scalar_t>* draws) {
  if constexpr (is_half<scalar_t>) {
    constexpr int kLanes = Vectorized<float>::size();
    const auto [a, b] = at::vec::convert_to_float<scalar_t>(x);
    return at::vec::convert_from_float<scalar_t>(
        a * Vectorized<float>::loadu(draws), b * Vectorized<float>::loadu(draws + kLanes)
    );
  } else {
    return x * Vectorized<scalar_t>::loadu(draws);
  }
}

struct Fill {
  template <class scalar_t>
  void operator()(scalar_t* out, const scalar_t*, const at::opmath_type<scalar_t>* draws, int64_t n) const {
    constexpr int64_t kLanes = Vectorized<scalar_t>::size();
    for (int64_t i = 0; i < n; i += kLanes) {
      load_draws<scalar_t>(draws + i).store(out + i, std::min(kLanes, n - i));
    }
  }
};

struct Multiply {
  template <class scalar_t>
  void operator()(scalar_t* out, const scalar_t* in, const at::opmath_type<scalar_t>* draws, int64_t n) const {
    using V = Vectorized<scalar_t>;
    int64_t i = 0;
    for (; i + V::size() <= n; i += V::size()) {
      times_draws(V::loadu(in + i), draws + i).store(out + i);
    }
    if (i < n) {
      times_draws(V::loadu(in + i, n - i), draws + i).store(out + i, n - i);
    }
  }
};

// Prefetches explicitly, because generating words takes so long that the hardware prefetcher does not run ahead. The
// addresses may be out of bounds.
template <class scalar_t>
inline void fetch(const scalar_t* from, const scalar_t* to, int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(scalar_t);
  for (int64_t i = 0; i < n; i += kLine) {
    __builtin_prefetch(from + i, /*to write=*/0);
    __builtin_prefetch(to + i, /*to write=*/1);
  }
}

template <class Store, class Draw>
void for_each_draw(
    const Store& store, const Draw& draw, const Parts& parts, const at::Tensor& out, const at::Tensor& in
) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, out.scalar_type(), "torchnotes::draws", [&] {
    using T = at::opmath_type<scalar_t>;
    constexpr int64_t kWordsEach = sizeof(T) / sizeof(uint32_t);
    constexpr int64_t kChunk = kChunkWords / kWordsEach, kElements = kGroup / kWordsEach;  // elements of a group
    scalar_t* const to = out.mutable_data_ptr<scalar_t>();
    const scalar_t* const from = in.const_data_ptr<scalar_t>();
    const int64_t* const keys = parts.keys.const_data_ptr<int64_t>();
    // Chunks start at groups of words. A row that starts inside a group generates a few elements before it in vain.
    const int64_t chunks = at::ceil_div(parts.numbering.max_skipped(kElements) + parts.size, kChunk);  // per row
    const int64_t grain = std::max<int64_t>(1, at::internal::GRAIN_SIZE / std::clamp<int64_t>(parts.size, 1, kChunk));
    at::parallel_for(0, parts.count * chunks, grain, [&](int64_t begin, int64_t end) {
      alignas(64) uint32_t words[kChunkWords];
      alignas(64) T draws[kChunk + kElements];  // the last vector may read past the end
      for (int64_t i = begin; i < end;) {
        const int64_t row = i / chunks, last = std::min(end, (row + 1) * chunks);
        const int64_t part = parts.numbering.part(row), start = parts.numbering.start(row);
        const Key key{uint64_t(keys[2 * part]), uint64_t(keys[2 * part + 1])};
        const int64_t before = start % kElements, whole = before + parts.size;
        for (; i < last; ++i) {
          const int64_t first = (i - row * chunks) * kChunk, drawn = std::min(kChunk, whole - first);
          const int64_t skipped = std::max<int64_t>(before - first, 0), n = drawn - skipped;
          if (n <= 0) {  // the row ends earlier
            continue;
          }
          const int64_t place = row * parts.size + first + skipped - before;
          fetch(from + place + kAhead * kChunk, to + place + kAhead * kChunk, kChunk);
          write_words(words, key, (start + first) / kElements, at::ceil_div(drawn, kElements));
          write_draws(draws, words, draw, drawn);
          store(to + place, from + place, draws + skipped, n);
        }
      }
    });
  });
}

}  // namespace
}  // namespace torchnotes
