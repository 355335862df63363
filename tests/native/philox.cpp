// Random words from the CPU driver and from single blocks, for tests/test_philox.py. Avoids torch's SIMD vectors, which
// take seconds to compile.
#define TORCHNOTES_SCALAR_ONLY
#include "../../csrc/formulas/vector_words.h"

#include "../../csrc/loops/cpu/words.h"

extern "C" __attribute__((visibility("default"))) void write_groups(
    uint32_t* out, uint64_t seed, uint64_t offset, int64_t group, int64_t groups
) {
  torchnotes::write_words(out, {seed, offset}, group, groups);
}

extern "C" __attribute__((visibility("default"))) void write_block(
    uint32_t* out, uint64_t seed, uint64_t offset, uint64_t number
) {
  const auto block = torchnotes::philox(torchnotes::Key{seed, offset}, number, number >> 32);
  for (int j = 0; j < 4; ++j) {
    out[j] = static_cast<uint32_t>(block.word[j]);
  }
}
