// What an update rule works on: parameters, their gradients and their states.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/macros/Macros.h>

#include <array>
#include <cstdint>
#include <limits>

namespace torchnotes {

constexpr int kMaxStates = 3;

// The global index of the elements of a shard of a parameter, which determines their random words. The shard consists
// of rows of `length` elements, each starting `pitch` elements after the one before.
struct GlobalIndex {
  int64_t first = 0, length = std::numeric_limits<int64_t>::max(), pitch = 0;

  C10_HOST_DEVICE int64_t operator()(int64_t i) const {
    return i < length ? first + i : first + i / length * pitch + i % length;
  }
};

// A float or double in the memory of the device, or a constant.
struct DeviceNumber {
  double constant = 0;
  void* data = nullptr;
  bool is_float = false;

  C10_HOST_DEVICE double get() const {
    return data == nullptr ? constant : is_float ? *static_cast<float*>(data) : *static_cast<double*>(data);
  }
  C10_HOST_DEVICE void increment() const {
    if (data != nullptr) {
      is_float ? *static_cast<float*>(data) += 1 : *static_cast<double*>(data) += 1;
    }
  }
};

// The contiguous elements of a parameter, and of the tensors that belong to it.
struct ParameterSlot {
  int64_t size;
  void *w, *grad, *compensation;
  std::array<void*, kMaxStates> states;
  DeviceNumber step;  // incremented before the update
  GlobalIndex global_index;
};

// An update of parameters of one type, by any rule. Nothing happens if found_inf is not 0.
struct Update {
  const ParameterSlot* slots;
  int64_t count;
  c10::ScalarType type;
  DeviceNumber lr, grad_norm, grad_scale, found_inf;
  double max_grad_norm;
  bool maximize, clips, unscales, rounds_stochastically;
  uint64_t stream;  // of random numbers
};

}  // namespace torchnotes
