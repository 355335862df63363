// Update rules, with the interface of loops/cpu/update.h. Nothing synchronizes: the learning rate, the loss scale,
// found_inf and the steps are read on the device.
#pragma once

#include <array>
#include <new>
#include <type_traits>

#include "formulas/gradient.h"
#include "formulas/philox.h"
#include "formulas/rounding.h"
#include "loops/cuda/chunks.cuh"
#include "loops/cuda/launch.cuh"
#include "loops/cuda/packet.cuh"
#include "loops/cuda/rows.cuh"
#include "loops/parameters.h"

namespace torchnotes {

constexpr int kUpdateThreads = 256;

// The options of an update without its slots, because the size of a kernel's arguments is limited.
struct DeviceOptions {
  DeviceNumber lr, grad_norm, grad_scale, found_inf;
  double max_grad_norm;
  bool maximize, clips, unscales, rounds_stochastically;
  uint64_t stream;

  __device__ bool skipped() const { return found_inf.get() != 0; }
  __device__ Gradient gradient() const {
    const double sign = maximize ? -1 : 1;
    return {unscales, grad_scale.get(), clips ? sign * clip_factor(max_grad_norm, grad_norm.get()) : sign};
  }
};

template <class Element, int kStates>
struct DeviceSlot {
  Element *w, *grad, *compensation;
  std::array<Element*, kStates> states;
  DeviceNumber step;
  GlobalIndex global_index;
  uint32_t number;  // of the parameter
  bool aligned;

  explicit DeviceSlot(const ParameterSlot& slot, int64_t i)
      : w(static_cast<Element*>(slot.w)),
        grad(static_cast<Element*>(slot.grad)),
        compensation(static_cast<Element*>(slot.compensation)),
        step(slot.step),
        global_index(slot.global_index),
        number(uint32_t(i)),
        aligned(starts_packet(w) && starts_packet(grad) && starts_packet(compensation)) {
    for (int k = 0; k < kStates; ++k) {
      states[k] = static_cast<Element*>(slot.states[k]);
      aligned = aligned && starts_packet(states[k]);
    }
  }
  DeviceSlot() = default;
};

template <class Element, int kStates>
using Slots = Batch<DeviceSlot<Element, kStates>>;

template <class Element, int kStates>
__global__ void advance_kernel(Slots<Element, kStates> slots, DeviceNumber found_inf) {
  if (threadIdx.x < slots.count && found_inf.get() == 0) {
    slots.item[threadIdx.x].step.increment();
  }
}

template <class Element>
__device__ inline Element rounded_at(float x, const Key& key, int64_t i) {
  return static_cast<Element>(rounded(x, word_at(key, i), Element()));
}

// Updates n neighboring elements, starting with the i-th.
template <int n, class Rule, class Element>
__device__ inline void update_packet(
    const Rule& rule,
    const Gradient& gradient,
    const DeviceSlot<Element, Rule::kStates>& slot,
    const Key* stochastic,
    int64_t i
) {
  using T = std::conditional_t<sizeof(Element) == sizeof(double), double, float>;
  auto w = load<n>(slot.w + i), g = load<n>(slot.grad + i);
  Packet<Element, n> c{}, states[Rule::kStates + 1];
  if (slot.compensation != nullptr) {
    c = load<n>(slot.compensation + i);
  }
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) {
    states[k] = load<n>(slot.states[k] + i);
  }
#pragma unroll
  for (int j = 0; j < n; ++j) {
    T weight = static_cast<T>(w.lane[j]), d = static_cast<T>(g.lane[j]);
    if (gradient.scaled) {
      d = gradient.unscaled(d);
      g.lane[j] = static_cast<Element>(d);
    }
    if (slot.compensation != nullptr) {
      weight += static_cast<T>(c.lane[j]);
    }
    std::array<T, Rule::kStates> state;
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) {
      state[k] = static_cast<T>(states[k].lane[j]);
    }
    rule(weight, gradient(d), state);
#pragma unroll
    for (int k = 0; k < Rule::kStates; ++k) {
      states[k].lane[j] = static_cast<Element>(state[k]);
    }
    w.lane[j] = static_cast<Element>(weight);
    if constexpr (sizeof(Element) == 2) {
      if (stochastic != nullptr) {
        w.lane[j] = rounded_at<Element>(weight, *stochastic, slot.global_index(i + j));
      }
    }
    c.lane[j] = static_cast<Element>(weight - static_cast<T>(w.lane[j]));
  }
  store(slot.w + i, w);
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) {
    store(slot.states[k] + i, states[k]);
  }
  if (gradient.scaled) {
    store(slot.grad + i, g);
  }
  if (slot.compensation != nullptr) {
    store(slot.compensation + i, c);
  }
}

template <class Rule, class Element>
__global__ void __launch_bounds__(kUpdateThreads) update_kernel(
    Rule rule, Slots<Element, Rule::kStates> slots, DeviceOptions options
) {
  if (options.skipped()) {
    return;
  }
  __shared__ Uninitialized<Rule> shared;
  const Gradient gradient = options.gradient();
  for_each_chunk(slots, [&](int i, int64_t begin, int64_t end, int64_t) {
    const auto& slot = slots.item[i];
    __syncthreads();  // all threads have read the rule of the previous chunk
    if (threadIdx.x == 0) {
      new (&shared.get()) Rule(rule.at(options.lr.get(), slot.step.get()));
    }
    __syncthreads();
    const Rule now = shared.get();
    const Key key{options.stream + slot.number, uint64_t(slot.step.get())};
    const Key* const stochastic = options.rounds_stochastically ? &key : nullptr;
    constexpr int kSize = kPacket<Element>;
    const int64_t whole = slot.aligned ? begin + (end - begin) / kSize * kSize : begin;
    for (int64_t j = begin + int64_t(threadIdx.x) * kSize; j < whole; j += int64_t(blockDim.x) * kSize) {
      update_packet<kSize>(now, gradient, slot, stochastic, j);
    }
    for (int64_t j = whole + threadIdx.x; j < end; j += blockDim.x) {
      update_packet<1>(now, gradient, slot, stochastic, j);
    }
  });
}

template <class Rule>
void update(c10::Device device, const Rule& rule, const Update& update) {
  constexpr int kStates = Rule::kStates;
  const DeviceOptions options{
      update.lr,
      update.grad_norm,
      update.grad_scale,
      update.found_inf,
      update.max_grad_norm,
      update.maximize,
      update.clips,
      update.unscales,
      update.rounds_stochastically,
      update.stream
  };
  with_element_type(update.type, [&](auto element) {
    using Element = decltype(element);
    for (int64_t i = 0; i < update.count;) {
      Slots<Element, kStates> slots;
      bool counts_steps = false;
      for (; i < update.count && !slots.full(); ++i) {
        slots.add(DeviceSlot<Element, kStates>(update.slots[i], i), update.slots[i].size);
        counts_steps = counts_steps || update.slots[i].step.data != nullptr;
      }
      if (counts_steps) {
        launch(device, 1, kTensors, advance_kernel<Element, kStates>, slots, options.found_inf);
      }
      launch(device, slots.chunks(), kUpdateThreads, update_kernel<Rule, Element>, rule, slots, options);
    }
  });
}

}  // namespace torchnotes
