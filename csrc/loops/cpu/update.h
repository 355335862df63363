// Applies update rules: update(device, rule, update) passes once over all parameters, their gradients and their states.
//
// A rule works on vectors, in float for bfloat16 and half; the tail of a tensor goes through the same code. Measured in
// docs/decisions/sixteen-bit-parameters.md.
#pragma once

#include <c10/core/Device.h>

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

// How a vector of elements is loaded and stored.
template <class T>
struct WholeNumbers {
  using Element = T;
  static constexpr int kVectors = 1;
  static constexpr bool kNarrow = false;
  using Numbers = std::array<Vectorized<T>, kVectors>;

  // n: the number of elements, if the vector is not full.
  template <class... N>
  Numbers load(const T* p, N... n) const {
    return {Vectorized<T>::loadu(p, n...)};
  }
  template <class... N>
  void store(T* p, const Numbers& x, N... n) const {
    x[0].store(p, n...);
  }
  Numbers nearest(const Numbers& x) const { return x; }
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
  static constexpr int kVectors = 2;
  static constexpr bool kNarrow = true, kHalf = std::is_same_v<T, c10::Half>;
  using Numbers = std::array<V, kVectors>;

  // The index of the element in this lane of the k-th vector.
  int lane_index(int k, int lane) const { return kHalf ? k * V::size() + lane : 2 * lane + k; }

  template <class... N>
  Numbers load(const T* p, N... n) const {
    const auto x = Vectorized<T>::loadu(p, n...);
    if constexpr (kHalf) {
      const auto [a, b] = at::vec::convert_to_float<T>(x);
      return {a, b};
    } else {
      const auto both = bits_as<Bits>(x);
      return {number(both << 16), number(both & 0xffff0000)};
    }
  }

  // `x` comes from nearest().
  template <class... N>
  void store(T* p, const Numbers& x, N... n) const {
    if constexpr (kHalf) {
      at::vec::convert_from_float<T>(x[0], x[1]).store(p, n...);
    } else {
      const Bits both = bits_as<Bits>(x[0]) >> 16 | bits_as<Bits>(x[1]);
      bits_as<Vectorized<T>>(both).store(p, n...);
    }
  }

  // What store() expects, and what memory will hold then.
  Numbers nearest(const Numbers& x) const { return kHalf ? x : Numbers{nearest(x[0]), nearest(x[1])}; }
  Numbers stored(const Numbers& x) const {
    if constexpr (kHalf) {
      const auto [a, b] = at::vec::convert_to_float<T>(at::vec::convert_from_float<T>(x[0], x[1]));
      return {a, b};
    } else {
      return x;
    }
  }

  // x rounded up or down by the random words of its elements.
  Numbers rounded_by(const uint32_t* words, const Numbers& x) const {
    Numbers result;
    for (int k = 0; k < kVectors; ++k) {
      alignas(64) float lanes[V::size()];
      x[k].store(lanes);
      for (int i = 0; i < V::size(); ++i) {
        lanes[i] = rounded(lanes[i], words[lane_index(k, i)], T());
      }
      result[k] = V::loadu(lanes);
    }
    return result;
  }

 private:
  static V number(const Bits& bits) { return bits_as<V>(bits); }
  static V nearest(const V& x) {
    const auto bits = bits_as<Bits>(x);
    return number((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
  }
};

template <class Rule, class As>
inline void update_elements(
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
  const auto elements = [](void* p) { return static_cast<Element*>(p); };
  // In registers: a store may alias the slot.
  Element *const w_data = elements(slot.w), *const grad_data = elements(slot.grad);
  Element* const compensation = As::kNarrow ? elements(slot.compensation) : nullptr;
  std::array<Element*, Rule::kStates> state_data;
  for (int k = 0; k < Rule::kStates; ++k) {
    state_data[k] = elements(slot.states[k]);
  }
  const auto update_at = [&](int64_t i, auto... n) {
    Numbers w = as.load(w_data + i, n...), g = as.load(grad_data + i, n...), c{};
    std::array<Numbers, Rule::kStates> states;
    for (int k = 0; k < Rule::kStates; ++k) {
      states[k] = as.load(state_data[k] + i, n...);
    }
    if (compensation != nullptr) {
      c = as.load(compensation + i, n...);
    }
    for (int j = 0; j < As::kVectors; ++j) {
      if (gradient.scaled) {
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
      w = words != nullptr ? as.rounded_by(words + (i - begin), w) : as.nearest(w);
      if (compensation != nullptr) {
        const Numbers stored = as.stored(w);
        for (int j = 0; j < As::kVectors; ++j) {
          c[j] = exact[j] - stored[j];
        }
        as.store(compensation + i, as.nearest(c), n...);
      }
    }
    as.store(w_data + i, w, n...);
    for (int k = 0; k < Rule::kStates; ++k) {
      as.store(state_data[k] + i, as.nearest(states[k]), n...);
    }
    if (gradient.scaled) {
      as.store(grad_data + i, as.nearest(g), n...);
    }
  };
  constexpr int64_t kSize = As::kVectors * V::size();
  int64_t i = begin;
  for (; i + kSize <= end; i += kSize) {
    update_at(i);
  }
  if (i < end) {
    update_at(i, end - i);
  }
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
  switch (type) {
    case c10::ScalarType::Float:
      return update_elements(rule, WholeNumbers<float>(), slot, gradient, begin, end, words);
    case c10::ScalarType::Double:
      return update_elements(rule, WholeNumbers<double>(), slot, gradient, begin, end, words);
    case c10::ScalarType::Half:
      return update_elements(rule, NarrowNumbers<c10::Half>(), slot, gradient, begin, end, words);
    default:
      return update_elements(rule, NarrowNumbers<c10::BFloat16>(), slot, gradient, begin, end, words);
  }
}

}  // namespace detail

template <class Rule>
void update(c10::Device, const Rule& rule, const Update& arguments) {
  update_all({detail::rule_at<Rule>, detail::update_any<Rule>}, &rule, arguments);
}

}  // namespace torchnotes
