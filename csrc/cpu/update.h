// The driver of update rules: update(rule, parameters, steps, options) updates all parameters in one pass over them,
// their gradients and their states.
//
// A rule works on vectors, in float for bfloat16 and half; the tail of a tensor goes through the same code. Measured in
// docs/decisions/sixteen-bit-parameters.md.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ceil_div.h>

#include <algorithm>
#include <array>
#include <vector>

#include "../formulas/gradient.h"
#include "../formulas/rounding.h"
#include "../parameters.h"
#include "chunks.h"
#include "map.h"
#include "words.h"

namespace torchnotes {
namespace {

constexpr int64_t kRounded = 256;  // elements whose random words are generated at once

// The elements of one vector of scalar_t, in the accumulation type: one vector, or two of float.
template <class scalar_t>
struct Numbers {
  using T = at::opmath_type<scalar_t>;
  static constexpr int kVectors = is_half<scalar_t> ? 2 : 1;
  std::array<Vectorized<T>, kVectors> v;

  // The index of the element in this lane of v[k].
  static constexpr int lane_index(int k, int lane) { return k * Vectorized<T>::size() + lane; }

  // n: the number of elements, if the vector is not full.
  template <class... N>
  static Numbers load(const scalar_t* p, N... n) {
    const auto x = Vectorized<scalar_t>::loadu(p, n...);
    if constexpr (is_half<scalar_t>) {
      const auto [a, b] = at::vec::convert_to_float<scalar_t>(x);
      return {{a, b}};
    } else {
      return {{x}};
    }
  }

  // Rounds to values that scalar_t can store: nearest() is what store() expects, stored() is what memory will hold.
  Numbers nearest() const { return *this; }
  Numbers stored() const {
    const auto [a, b] = at::vec::convert_to_float<scalar_t>(at::vec::convert_from_float<scalar_t>(v[0], v[1]));
    return {{a, b}};
  }

  template <class... N>
  void store(scalar_t* p, N... n) const {
    if constexpr (is_half<scalar_t>) {
      at::vec::convert_from_float<scalar_t>(v[0], v[1]).store(p, n...);
    } else {
      v[0].store(p, n...);
    }
  }
};

// bfloat16 is the upper half of a float. Widening the even and the odd elements separately takes only a shift or a
// mask, half the time of converting neighbors. NaN survives the rounding, because a NaN that comes from bfloat16 or
// from arithmetic has no bits in its lower half.
template <>
struct Numbers<c10::BFloat16> {
  using T = float;
  typedef uint32_t Bits __attribute__((vector_size(sizeof(Vectorized<float>))));
  static constexpr int kVectors = 2;
  std::array<Vectorized<float>, kVectors> v;

  static constexpr int lane_index(int k, int lane) { return 2 * lane + k; }

  template <class... N>
  static Numbers load(const c10::BFloat16* p, N... n) {
    const auto both = bits_as<Bits>(Vectorized<c10::BFloat16>::loadu(p, n...));
    return {{number(both << 16), number(both & 0xffff0000)}};
  }

  Numbers nearest() const { return {{nearest(v[0]), nearest(v[1])}}; }
  Numbers stored() const { return *this; }

  template <class... N>
  void store(c10::BFloat16* p, N... n) const {
    const Bits both = bits_as<Bits>(v[0]) >> 16 | bits_as<Bits>(v[1]);
    bits_as<Vectorized<c10::BFloat16>>(both).store(p, n...);
  }

 private:
  static Vectorized<float> number(const Bits& bits) { return bits_as<Vectorized<float>>(bits); }
  static Vectorized<float> nearest(const Vectorized<float>& x) {
    const auto bits = bits_as<Bits>(x);
    return number((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
  }
};

// The data of a parameter, and the rule at its step.
template <class Rule, class scalar_t>
struct Slot {
  Rule rule;
  scalar_t *w, *gradient, *compensation;
  std::array<scalar_t*, Rule::kStates> states;
  Key key;
  GlobalIndex global_index;
};

// Rounds w up or down by the random words of its elements; the first element starts a group.
template <class scalar_t>
inline void round_stochastically(Numbers<scalar_t>& w, const uint32_t* words) {
  constexpr int kLanes = Vectorized<float>::size();
  for (int k = 0; k < 2; ++k) {
    alignas(64) float lanes[kLanes];
    w.v[k].store(lanes);
    for (int i = 0; i < kLanes; ++i) {
      lanes[i] = rounded(lanes[i], words[w.lane_index(k, i)], scalar_t());
    }
    w.v[k] = Vectorized<float>::loadu(lanes);
  }
}

// Updates the elements [begin, end).
template <class Rule, class scalar_t>
inline void update_part(
    const Slot<Rule, scalar_t> slot, const Gradient gradient, int64_t begin, int64_t end, const uint32_t* words
) {
  using N = Numbers<scalar_t>;
  using T = typename N::T;
  using V = Vectorized<T>;
  const bool compensated = is_half<scalar_t> && slot.compensation != nullptr;
  const auto update_at = [&](int64_t i, auto... n) {
    N w = N::load(slot.w + i, n...), g = N::load(slot.gradient + i, n...), c{};
    std::array<N, Rule::kStates> states;
    for (int k = 0; k < Rule::kStates; ++k) {
      states[k] = N::load(slot.states[k] + i, n...);
    }
    if (compensated) {
      c = N::load(slot.compensation + i, n...);
    }
    for (int j = 0; j < N::kVectors; ++j) {
      if (gradient.scaled) {
        g.v[j] = gradient.unscaled(g.v[j]);
      }
      if (compensated) {
        w.v[j] = w.v[j] + c.v[j];
      }
      std::array<V, Rule::kStates> state;
      for (int k = 0; k < Rule::kStates; ++k) {
        state[k] = states[k].v[j];
      }
      slot.rule(w.v[j], gradient(g.v[j]), state);
      for (int k = 0; k < Rule::kStates; ++k) {
        states[k].v[j] = state[k];
      }
    }
    if constexpr (is_half<scalar_t>) {
      const N exact = w;
      if (words != nullptr) {
        round_stochastically(w, words + (i - begin));
      } else {
        w = w.nearest();
      }
      if (compensated) {
        const N nearest = w.stored();
        for (int j = 0; j < N::kVectors; ++j) {
          c.v[j] = exact.v[j] - nearest.v[j];
        }
        c.nearest().store(slot.compensation + i, n...);
      }
    }
    w.store(slot.w + i, n...);
    for (int k = 0; k < Rule::kStates; ++k) {
      states[k].nearest().store(slot.states[k] + i, n...);
    }
    if (gradient.scaled) {
      g.nearest().store(slot.gradient + i, n...);
    }
  };
  constexpr int64_t kSize = Vectorized<scalar_t>::size();
  int64_t i = begin;
  for (; i + kSize <= end; i += kSize) {
    update_at(i);
  }
  if (i < end) {
    update_at(i, end - i);
  }
}

// The same with stochastic rounding.
template <class Rule, class scalar_t>
inline void update_part_stochastically(
    const Slot<Rule, scalar_t>& slot, const Gradient& gradient, int64_t begin, int64_t end
) {
  alignas(64) uint32_t words[kRounded + kGroup] = {};  // the last vector reads past the words of its elements
  const GlobalIndex& global_index = slot.global_index;
  for (int64_t n; begin < end; begin += n) {
    n = std::min({kRounded, end - begin, global_index.length - begin % global_index.length});
    const int64_t number = global_index(begin), before = number % kGroup;
    write_words(words, slot.key, number / kGroup, at::ceil_div(before + n, kGroup));
    update_part(slot, gradient, begin, begin + n, words + before);
  }
}

inline double number(const std::optional<at::Tensor>& x, double fallback) {
  return x.has_value() ? x->item<double>() : fallback;
}

// parameters: the parameters, their gradients, the states of the rule, and the compensations if there are any. steps:
// how often each parameter has been updated, if the rule or the random numbers depend on it.
template <class Rule>
void update(const Rule& rule, const Parameters& parameters, at::TensorList steps, const UpdateOptions& options) {
  constexpr int kStates = Rule::kStates;
  if (number(options.found_inf, 0) != 0) {
    return;
  }
  const double lr = number(options.device_lr, options.lr);
  Gradient gradient{options.grad_scale.has_value(), number(options.grad_scale, 1), options.maximize ? -1.0 : 1.0};
  if (options.grad_norm.has_value()) {
    gradient.factor *= clip_factor(options.max_grad_norm, number(options.grad_norm, 0));
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, parameters(0, 0).scalar_type(), "torchnotes::update", [&] {
    std::vector<Slot<Rule, scalar_t>> slots(parameters.size());
    std::vector<int64_t> sizes(parameters.size());
    double step = steps.empty() ? 0 : advance(steps[0]);
    Rule now = rule.at(lr, step);
    for (size_t i = 0; i < slots.size(); ++i) {
      if (!steps.empty() && i > 0) {
        const double own = advance(steps[i]);
        now = own == step ? now : rule.at(lr, own);
        step = own;
      }
      const auto data = [&](size_t list) { return parameters(list, i).template mutable_data_ptr<scalar_t>(); };
      auto& slot = slots[i];
      slot = {now, data(0), data(1), parameters.lists() > 2 + kStates ? data(2 + kStates) : nullptr};
      for (int k = 0; k < kStates; ++k) {
        slot.states[k] = data(2 + k);
      }
      slot.key = {uint64_t(options.stream.value_or(0)) + i, uint64_t(step)};
      slot.global_index = options.global_index(i);
      sizes[i] = parameters(0, i).numel();
    }
    for_each_chunk(sizes, [&](size_t i, int64_t begin, int64_t end, int64_t) {
      if (options.stream.has_value()) {
        update_part_stochastically(slots[i], gradient, begin, end);
      } else {
        update_part(slots[i], gradient, begin, end, nullptr);
      }
    });
  });
  parameters.write_back();
}

}  // namespace
}  // namespace torchnotes
