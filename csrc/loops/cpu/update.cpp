#include "loops/cpu/update.h"

#include <ATen/ceil_div.h>

#include <algorithm>
#include <vector>

#include "loops/cpu/chunks.h"
#include "loops/cpu/words.h"

namespace torchnotes {
namespace {

constexpr int64_t kRounded = 256;  // elements whose random words are generated at once

Gradient gradient_of(const Update& update) {
  const double sign = update.maximize ? -1 : 1;
  const double clipped = update.clips ? clip_factor(update.max_grad_norm, update.grad_norm.get()) : 1;
  return {update.unscales, update.grad_scale.get(), sign * clipped};
}

}  // namespace

void update_all(const UpdateFunctions& functions, const void* rule, const Update& update) {
  if (update.found_inf.get() != 0) {
    return;
  }
  const double lr = update.lr.get();
  const Gradient gradient = gradient_of(update);
  const c10::ScalarType type = update.type;
  std::vector<int64_t> sizes(update.count), rule_of(update.count);
  std::vector<double> steps(update.count);
  std::vector<RuleMemory> rules;  // of consecutive parameters at the same step
  for (int64_t i = 0; i < update.count; ++i) {
    const ParameterSlot& slot = update.slots[i];
    slot.step.increment();
    sizes[i] = slot.size;
    steps[i] = slot.step.get();
    if (i == 0 || steps[i] != steps[i - 1]) {
      functions.at(rule, lr, steps[i], rules.emplace_back());
    }
    rule_of[i] = int64_t(rules.size()) - 1;
  }
  for_each_chunk(sizes, [&](size_t i, int64_t begin, int64_t end, int64_t) {
    const ParameterSlot& slot = update.slots[i];
    const RuleMemory& now = rules[rule_of[i]];
    if (!update.rounds_stochastically) {
      functions.update(now, type, slot, gradient, begin, end, nullptr);
      return;
    }
    const Key key{update.stream + i, uint64_t(steps[i])};
    alignas(64) uint32_t words[kRounded + kGroup] = {};  // the last vector reads past the words of its elements
    const GlobalIndex& global_index = slot.global_index;
    for (int64_t n; begin < end; begin += n) {
      n = std::min({kRounded, end - begin, global_index.length - begin % global_index.length});
      const int64_t number = global_index(begin), before = number % kGroup;
      write_words(words, key, number / kGroup, at::ceil_div(before + n, kGroup));
      functions.update(now, type, slot, gradient, begin, begin + n, words + before);
    }
  });
}

}  // namespace torchnotes
