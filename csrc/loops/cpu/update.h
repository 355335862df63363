// Applies update rules: update(device, rule, update) passes once over all parameters, their gradients and their states.
//
// A rule works on vectors, in float for bfloat16 and half; the tail of a tensor goes through the same code. Measured in
// docs/decisions/sixteen-bit-parameters.md.
#pragma once

#include <c10/core/Device.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <type_traits>

#include "formulas/gradient.h"
#include "formulas/rounding.h"
#include "loops/cpu/vectors.h"
#include "loops/parameters.h"

namespace torchnotes {

// Memory for a rule.
struct alignas(8) RuleMemory {
  std::byte bytes[64];
};

// What is compiled for each rule.
struct UpdateFunctions {
  void (*at)(const void* rule, double lr, double step, RuleMemory& now);  // the rule at a step
  // Updates the elements [begin, end). `words` are random words for each, or null.
  void (*update)(
      const RuleMemory& rule,
      c10::ScalarType type,
      const ParameterSlot& slot,
      const Gradient& gradient,
      int64_t begin,
      int64_t end,
      const uint32_t* words
  );
};

void update_all(const UpdateFunctions& functions, const void* rule, const Update& update);

namespace detail {

// How the numbers of one or two vectors are loaded and stored.
template <class T>
struct WholeNumbers {
  using Element = T;
  static constexpr int kVectors = 1;
  static constexpr bool kNarrow = false;
  using Numbers = std::array<Vectorized<T>, kVectors>;

  Numbers load(const T* p, int64_t n) const { return {Vectorized<T>::loadu(p, n)}; }
  void store(T* p, const Numbers& x, int64_t n) const { x[0].store(p, static_cast<int>(n)); }
};

// 16-bit numbers. One loop for both types, with a branch, takes 12 % longer.
//
// bfloat16 is the upper half of a float. Widening the even and the odd elements separately takes only a shift or a
// mask, half the time of converting neighbors. NaN survives the rounding, because a NaN that comes from bfloat16 or
// from arithmetic has no bits in its lower half.
template <class T>
struct NarrowNumbers {
  using Element = T;
  using V = Vectorized<float>;
  typedef uint32_t Bits __attribute__((vector_size(sizeof(V))));
  typedef uint16_t Halves __attribute__((vector_size(sizeof(V))));
  static constexpr int kVectors = 2;
  static constexpr bool kNarrow = true, kHalf = std::is_same_v<T, c10::Half>;
  using Numbers = std::array<V, kVectors>;

  Numbers load(const T* p, int64_t n) const {
    const auto x = Vectorized<T>::loadu(p, n);
    if constexpr (kHalf) {
      const auto [a, b] = at::vec::convert_to_float<T>(x);
      return {a, b};
    } else {
      const auto both = bits_as<Bits>(x);
      return {bits_as<V>(both << 16), bits_as<V>(both & kUpper)};
    }
  }

  // Stores the nearest numbers of 16 bits.
  void store(T* p, const Numbers& x, int64_t n) const {
    if constexpr (kHalf) {
      at::vec::convert_from_float<T>(x[0], x[1]).store(p, static_cast<int>(n));
    } else {
      const auto even = bits_as<Halves>(nearest(x[0]) >> 16), odd = bits_as<Halves>(nearest(x[1]));
      const auto upper = bits_as<Halves>(Bits{} + kUpper);
      bits_as<Vectorized<T>>(upper ? odd : even).store(p, static_cast<int>(n));
    }
  }

  // What memory will hold after store().
  Numbers stored(const Numbers& x) const {
    if constexpr (kHalf) {
      const auto [a, b] = at::vec::convert_to_float<T>(at::vec::convert_from_float<T>(x[0], x[1]));
      return {a, b};
    } else {
      return {bits_as<V>(nearest(x[0]) & kUpper), bits_as<V>(nearest(x[1]) & kUpper)};
    }
  }

  // x rounded up or down by the random words of its elements.
  Numbers rounded_by(const uint32_t* words, const Numbers& x) const {
    if constexpr (kHalf) {
      alignas(64) float lanes[2 * V::size()];
      x[0].store(lanes);
      x[1].store(lanes + V::size());
      for (int i = 0; i < 2 * V::size(); ++i) {  // long enough for compilers to vectorize it
        lanes[i] = rounded(lanes[i], words[i], T());
      }
      return {V::loadu(lanes), V::loadu(lanes + V::size())};
    } else {
      const auto [even, odd] = at::vec::deinterleave2(V::loadu(words), V::loadu(words + V::size()));
      return {rounded(x[0], bits_as<Bits>(even), T()), rounded(x[1], bits_as<Bits>(odd), T())};
    }
  }

 private:
  static constexpr uint32_t kUpper = 0xffff0000;

  // The upper halves are the numbers of bfloat16 that are nearest to x.
  static Bits nearest(const V& x) {
    const auto bits = bits_as<Bits>(x);
    return bits + 0x7fff + (bits >> 16 & 1);
  }
};

// Updates the elements [begin, end), or as many of them as fill vectors, and returns where it stopped. Without options,
// constants stay in registers and nothing is tested: up to twice the speed (docs/decisions/sixteen-bit-parameters.md).
template <bool kOptions, class Rule, class As>
inline int64_t update_elements(
    const Rule rule,
    const As as,
    const ParameterSlot& slot,
    const Gradient gradient,
    int64_t begin,
    int64_t end,
    const uint32_t* words
) {
  using Element = typename As::Element;
  using Numbers = typename As::Numbers;
  using V = typename Numbers::value_type;
  constexpr int64_t kSize = As::kVectors * V::size();
  const auto elements = [](void* p) { return static_cast<Element*>(p); };
  // In registers: a store may alias the slot.
  Element *const w_data = elements(slot.w), *const grad_data = elements(slot.grad);
  Element* const compensation = kOptions && As::kNarrow ? elements(slot.compensation) : nullptr;
  const bool scaled = kOptions && gradient.scaled;
  std::array<Element*, Rule::kStates> state_data;
  for (int k = 0; k < Rule::kStates; ++k) {
    state_data[k] = elements(slot.states[k]);
  }
  int64_t i = begin;
  for (; i < (kOptions ? end : end - kSize + 1); i += kSize) {
    const int64_t n = kOptions ? std::min(kSize, end - i) : kSize;
    Numbers w = as.load(w_data + i, n), g = as.load(grad_data + i, n), c{};
    std::array<Numbers, Rule::kStates> states;
    for (int k = 0; k < Rule::kStates; ++k) {
      states[k] = as.load(state_data[k] + i, n);
    }
    if (compensation != nullptr) {
      c = as.load(compensation + i, n);
    }
    for (int j = 0; j < As::kVectors; ++j) {
      if (scaled) {
        g[j] = gradient.unscaled(g[j]);
      }
      if (compensation != nullptr) {
        w[j] = w[j] + c[j];
      }
      std::array<V, Rule::kStates> state;
      for (int k = 0; k < Rule::kStates; ++k) {
        state[k] = states[k][j];
      }
      rule(w[j], gradient(g[j]), state);
      for (int k = 0; k < Rule::kStates; ++k) {
        states[k][j] = state[k];
      }
    }
    if constexpr (As::kNarrow) {
      const Numbers exact = w;
      if (kOptions && words != nullptr) {
        w = as.rounded_by(words + (i - begin), w);
      }
      if (compensation != nullptr) {
        const Numbers stored = as.stored(w);
        for (int j = 0; j < As::kVectors; ++j) {
          c[j] = exact[j] - stored[j];
        }
        as.store(compensation + i, c, n);
      }
    }
    as.store(w_data + i, w, n);
    for (int k = 0; k < Rule::kStates; ++k) {
      as.store(state_data[k] + i, states[k], n);
    }
    if (scaled) {
      as.store(grad_data + i, g, n);
    }
  }
  return i;
}

template <class Rule>
const Rule& as_rule(const RuleMemory& memory) {
  return *std::launder(reinterpret_cast<const Rule*>(memory.bytes));
}

template <class Rule>
void rule_at(const void* rule, double lr, double step, RuleMemory& now) {
  static_assert(sizeof(Rule) <= sizeof(RuleMemory) && std::is_trivially_copyable_v<Rule>);
  new (now.bytes) Rule(static_cast<const Rule*>(rule)->at(lr, step));
}

template <class Rule>
void update_any(
    const RuleMemory& memory,
    c10::ScalarType type,
    const ParameterSlot& slot,
    const Gradient& gradient,
    int64_t begin,
    int64_t end,
    const uint32_t* words
) {
  const auto& rule = as_rule<Rule>(memory);
  const auto update_as = [&](const auto as) {
    if (!gradient.scaled && slot.compensation == nullptr && words == nullptr) {
      begin = update_elements<false>(rule, as, slot, gradient, begin, end, words);
    }
    update_elements<true>(rule, as, slot, gradient, begin, end, words);
  };
  switch (type) {
    case c10::ScalarType::Float:
      return update_as(WholeNumbers<float>());
    case c10::ScalarType::Double:
      return update_as(WholeNumbers<double>());
    case c10::ScalarType::Half:
      return update_as(NarrowNumbers<c10::Half>());
    default:
      return update_as(NarrowNumbers<c10::BFloat16>());
  }
}

}  // namespace detail

template <class Rule>
void update(c10::Device, const Rule& rule, const Update& arguments) {
  update_all({detail::rule_at<Rule>, detail::update_any<Rule>}, &rule, arguments);
}

}  // namespace torchnotes
