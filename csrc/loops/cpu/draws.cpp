// Chunks go through buffers that stay in L1: words, then draws, then results. The loops over words and draws run to the
// end of a pair of rows even if the operands end earlier. Measured in docs/decisions/random-numbers.md.
#include "loops/cpu/draws.h"

#include <algorithm>

#include "loops/cpu/load.h"
#include "loops/cpu/parallel.h"
#include "loops/cpu/tile.h"
#include "loops/cpu/words.h"

namespace torchnotes {
namespace {

constexpr int64_t kChunkWords = 16 * kGroup;

// out = in * draws
template <class T>
void multiply(const void* in, const T* draws, int64_t n, c10::ScalarType type, void* out) {
  using V = Vectorized<T>;
  constexpr int64_t kSize = V::size();
  with_load<T>(type, [&](const auto load) {
    using Element = typename decltype(load)::Element;
    const auto* const x = static_cast<const Element*>(in);
    auto* const y = static_cast<Element*>(out);
    int64_t i = 0;
    if constexpr (load.kNarrow) {
      for (; i + 2 * kSize <= n; i += 2 * kSize) {
        const V a = load(x + i) * V::loadu(draws + i);
        load.store_pair(y + i, a, load(x + i + kSize) * V::loadu(draws + i + kSize), /*streamed=*/false);
      }
    }
    for (; i + kSize <= n; i += kSize) {
      load.store(y + i, load(x + i) * V::loadu(draws + i));
    }
    if (i < n) {
      load.store_some(y + i, load(x + i, n - i) * V::loadu(draws + i), n - i);
    }
  });
}

// Writes the words of a chunk and prefetches the operands of the next one explicitly, because generating words takes so
// long that the hardware prefetcher does not run ahead. Prefetches are spread evenly: a burst would stall. Their
// addresses may be out of bounds.
void write_words_and_fetch(
    uint32_t* words, const Key& key, int64_t group, int64_t groups, const void* next, void* next_out, int64_t bytes
) {
  const auto* from = static_cast<const char*>(next);
  auto* to = static_cast<char*>(next_out);
  for (int64_t i = 0; i < groups; ++i, words += kGroup) {
    for (int64_t j = 0; j < bytes; j += 64, from += 64, to += 64) {
      __builtin_prefetch(from, 0);
      __builtin_prefetch(to, 1);
    }
    write_words(words, key, group + i, 1);
  }
}

template <class T>
void for_all(WriteDraws<T> write, const void* draw, const Noise& noise) {
  constexpr int64_t kWordsEach = sizeof(T) / sizeof(uint32_t);
  constexpr int64_t kChunk = kChunkWords / kWordsEach, kElements = kGroup / kWordsEach;  // elements of a group
  const int64_t size = noise.size;
  const bool fills = noise.in == nullptr;
  // Chunks start at groups of words. A row that starts inside a group generates a few elements before it in vain.
  const int64_t chunks = at::ceil_div(noise.numbering.max_skipped(kElements) + size, kChunk);  // per row
  const int64_t grain = grain_of(std::clamp<int64_t>(size, 1, kChunk));
  at::parallel_for(0, noise.rows * chunks, grain, [&](int64_t begin, int64_t end) {
    alignas(64) uint32_t words[kChunkWords];
    alignas(64) T draws[kChunk + kElements];  // the last vector may read past the end
    for (int64_t i = begin; i < end;) {
      const int64_t row = i / chunks, last = std::min(end, (row + 1) * chunks);
      const int64_t* const pair = noise.keys[noise.numbering.part(row)];
      const Key key{uint64_t(pair[0]), uint64_t(pair[1])};
      const int64_t start = noise.numbering.start(row), before = start % kElements, whole = before + size;
      for (; i < last; ++i) {
        const int64_t first = (i - row * chunks) * kChunk, count = std::min(kChunk, whole - first);
        const int64_t skipped = std::max<int64_t>(before - first, 0), n = count - skipped;
        if (n <= 0) {  // the row ends earlier
          continue;
        }
        const int64_t offset = row * size + first + skipped - before;
        void* const to = element_at(noise.out, noise.type, offset);
        const void* const from = fills ? to : element_at(noise.in, noise.type, offset);
        write_words_and_fetch(
            words,
            key,
            (start + first) / kElements,
            at::ceil_div(count, kElements),
            element_at(from, noise.type, kChunk),
            element_at(to, noise.type, kChunk),
            kElements * element_bytes(noise.type)
        );
        if (fills && noise.type == kTypeOf<T> && skipped == 0 && n % (2 * kPairDistance) == 0) {
          write(draw, words, n, static_cast<T*>(to));
          continue;
        }
        write(draw, words, count, draws);
        if (fills) {
          store_tile(draws + skipped, n, noise.type, to);
        } else {
          multiply(from, draws + skipped, n, noise.type, to);
        }
      }
    }
  });
}

}  // namespace

void for_each_draw(WriteDraws<float> write, const void* draw, const Noise& noise) { for_all(write, draw, noise); }
void for_each_draw(WriteDraws<double> write, const void* draw, const Noise& noise) { for_all(write, draw, noise); }

}  // namespace torchnotes
