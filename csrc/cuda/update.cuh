// The driver of update rules, with the interface of cpu/update.h. Nothing synchronizes: the learning rate, the loss
// scale, found_inf and the steps are read on the device.
#pragma once

#include <array>
#include <new>

#include "../formulas/gradient.h"
#include "../formulas/philox.h"
#include "../formulas/rounding.h"
#include "../parameters.h"
#include "chunks.cuh"
#include "rows.cuh"

namespace torchnotes {
namespace {

// A float or double on the device, or a constant.
struct DeviceNumber {
  float* as_float = nullptr;
  double* as_double = nullptr;
  double constant = 0;

  DeviceNumber() = default;
  explicit DeviceNumber(double value) : constant(value) {}
  explicit DeviceNumber(const at::Tensor& x) {
    (x.scalar_type() == at::kFloat ? void(as_float = x.mutable_data_ptr<float>())
                                   : void(as_double = x.mutable_data_ptr<double>()));
  }

  __device__ double get() const {
    return as_float != nullptr ? *as_float : as_double != nullptr ? *as_double : constant;
  }
  __device__ void increment() const {
    if (as_float != nullptr) {
      *as_float += 1;
    } else if (as_double != nullptr) {
      *as_double += 1;
    }
  }
};

struct DeviceOptions {
  DeviceNumber lr, grad_norm, grad_scale, found_inf;
  double max_grad_norm;
  bool maximize, scaled, clipped, stochastic;
  uint64_t stream;

  __device__ bool skipped() const { return found_inf.get() != 0; }
  __device__ Gradient gradient() const {
    const double sign = maximize ? -1 : 1;
    return {scaled, grad_scale.get(), clipped ? sign * clip_factor(max_grad_norm, grad_norm.get()) : sign};
  }
};

template <class scalar_t, int kStates>
struct Slot {
  scalar_t *w, *gradient, *compensation;
  std::array<scalar_t*, kStates> states;
  DeviceNumber step;
  GlobalIndex global_index;
  uint32_t number;  // of the parameter
  bool aligned;
};

template <class scalar_t, int kStates>
using Slots = Batch<Slot<scalar_t, kStates>>;

template <class scalar_t, int kStates>
__global__ void advance_kernel(Slots<scalar_t, kStates> slots, DeviceNumber found_inf) {
  if (threadIdx.x < slots.count && found_inf.get() == 0) {
    slots.item[threadIdx.x].step.increment();
  }
}

template <class scalar_t>
__device__ inline scalar_t rounded_at(float x, const Key& key, int64_t i) {
  return static_cast<scalar_t>(rounded(x, word_at(key, i), scalar_t()));
}

// Updates n neighboring elements, starting with the i-th.
template <int n, class Rule, class scalar_t>
__device__ inline void update_packet(
    const Rule& rule,
    const Gradient& gradient,
    const Slot<scalar_t, Rule::kStates>& slot,
    const Key* stochastic,
    int64_t i
) {
  using T = at::opmath_type<scalar_t>;
  auto w = load<n>(slot.w + i), g = load<n>(slot.gradient + i);
  Packet<scalar_t, n> c{}, states[Rule::kStates + 1];
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
      g.lane[j] = static_cast<scalar_t>(d);
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
      states[k].lane[j] = static_cast<scalar_t>(state[k]);
    }
    w.lane[j] = static_cast<scalar_t>(weight);
    if constexpr (sizeof(scalar_t) == 2) {
      if (stochastic != nullptr) {
        w.lane[j] = rounded_at<scalar_t>(weight, *stochastic, slot.global_index(i + j));
      }
    }
    c.lane[j] = static_cast<scalar_t>(weight - static_cast<T>(w.lane[j]));
  }
  store(slot.w + i, w);
#pragma unroll
  for (int k = 0; k < Rule::kStates; ++k) {
    store(slot.states[k] + i, states[k]);
  }
  if (gradient.scaled) {
    store(slot.gradient + i, g);
  }
  if (slot.compensation != nullptr) {
    store(slot.compensation + i, c);
  }
}

template <class Rule, class scalar_t>
__global__ void __launch_bounds__(kMapThreads) update_kernel(
    Rule rule, Slots<scalar_t, Rule::kStates> slots, DeviceOptions options
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
    const Key* const stochastic = options.stochastic ? &key : nullptr;
    constexpr int kSize = kPacket<scalar_t>;
    const int64_t whole = slot.aligned ? begin + (end - begin) / kSize * kSize : begin;
    for (int64_t j = begin + int64_t(threadIdx.x) * kSize; j < whole; j += int64_t(blockDim.x) * kSize) {
      update_packet<kSize>(now, gradient, slot, stochastic, j);
    }
    for (int64_t j = whole + threadIdx.x; j < end; j += blockDim.x) {
      update_packet<1>(now, gradient, slot, stochastic, j);
    }
  });
}

inline DeviceNumber device_number(const std::optional<at::Tensor>& x, double fallback, at::Tensor& keep) {
  if (!x.has_value()) {
    return DeviceNumber(fallback);
  }
  const bool is_float = x->scalar_type() == at::kFloat || x->scalar_type() == at::kDouble;
  keep = is_float ? *x : x->to(at::kDouble);
  return DeviceNumber(keep);
}

template <class Rule>
void update(const Rule& rule, const Parameters& parameters, at::TensorList steps, const UpdateOptions& options) {
  constexpr int kStates = Rule::kStates;
  const auto device = parameters(0, 0).device();
  for (const at::Tensor& step : steps) {
    TORCH_CHECK(
        step.device() == device || (step.is_cpu() && !options.found_inf.has_value()),
        "torchnotes: expected the steps of the parameters on ",
        device,
        options.found_inf.has_value() ? ", because found_inf is given" : " or the CPU",
        ", got a step on ",
        step.device()
    );
  }
  std::array<at::Tensor, 4> keep;
  const DeviceOptions on_device{
      device_number(options.device_lr, options.lr, keep[0]),
      device_number(options.grad_norm, 0, keep[1]),
      device_number(options.grad_scale, 1, keep[2]),
      device_number(options.found_inf, 0, keep[3]),
      options.max_grad_norm,
      options.maximize,
      options.grad_scale.has_value(),
      options.grad_norm.has_value(),
      options.stream.has_value(),
      uint64_t(options.stream.value_or(0))
  };
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, parameters(0, 0).scalar_type(), "torchnotes::update", [&] {
    for (size_t i = 0; i < parameters.size();) {
      Slots<scalar_t, kStates> slots;
      for (; i < parameters.size() && !slots.full(); ++i) {
        const auto data = [&](size_t list) { return parameters(list, i).template mutable_data_ptr<scalar_t>(); };
        Slot<scalar_t, kStates> slot{data(0), data(1), nullptr};
        slot.aligned = starts_packet(slot.w) && starts_packet(slot.gradient);
        for (int k = 0; k < kStates; ++k) {
          slot.states[k] = data(2 + k);
          slot.aligned = slot.aligned && starts_packet(slot.states[k]);
        }
        if (parameters.lists() > 2 + kStates) {
          slot.compensation = data(2 + kStates);
          slot.aligned = slot.aligned && starts_packet(slot.compensation);
        }
        if (!steps.empty()) {
          slot.step = steps[i].device() == device ? DeviceNumber(steps[i]) : DeviceNumber(advance(steps[i]));
        }
        slot.global_index = options.global_index(i);
        slot.number = uint32_t(i);
        slots.add(slot, parameters(0, i).numel());
      }
      if (!steps.empty()) {
        launch(device, 1, kTensors, advance_kernel<scalar_t, kStates>, slots, on_device.found_inf);
      }
      launch(device, slots.chunks(), kMapThreads, update_kernel<Rule, scalar_t>, rule, slots, on_device);
    }
  });
  parameters.write_back();
}

}  // namespace
}  // namespace torchnotes
