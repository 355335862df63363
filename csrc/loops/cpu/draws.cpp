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
constexpr int64_t kAhead = 1;  // chunks

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

// Prefetches explicitly, because generating words takes so long that the hardware prefetcher does not run ahead. The
// address may be out of bounds.
void fetch(const void* from, int64_t bytes, bool to_write) {
  for (int64_t i = 0; i < bytes; i += 64) {
    const char* const line = static_cast<const char*>(from) + i;
    to_write ? __builtin_prefetch(line, 1) : __builtin_prefetch(line, 0);
  }
}

template <class T>
void for_all(WriteDraws<T> write, const void* draw, const Noise& noise) {
  constexpr int64_t kWordsEach = sizeof(T) / sizeof(uint32_t);
  constexpr int64_t kChunk = kChunkWords / kWordsEach, kElements = kGroup / kWordsEach;  // elements of a group
  const int64_t size = noise.size, chunk_bytes = kChunk * c10::elementSize(noise.type);
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
        fetch(element_at(to, noise.type, kAhead * kChunk), chunk_bytes, /*to_write=*/true);
        const void* from = nullptr;
        if (noise.in != nullptr) {
          from = element_at(noise.in, noise.type, offset);
          fetch(element_at(from, noise.type, kAhead * kChunk), chunk_bytes, /*to_write=*/false);
        }
        write_words(words, key, (start + first) / kElements, at::ceil_div(count, kElements));
        write(draw, words, count, draws);
        if (noise.in != nullptr) {
          multiply(from, draws + skipped, n, noise.type, to);
        } else {
          store_tile(draws + skipped, n, noise.type, to);
        }
      }
    }
  });
}

}  // namespace

void for_each_draw(WriteDraws<float> write, const void* draw, const Noise& noise) { for_all(write, draw, noise); }
void for_each_draw(WriteDraws<double> write, const void* draw, const Noise& noise) { for_all(write, draw, noise); }

}  // namespace torchnotes
