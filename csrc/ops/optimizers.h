// The update operators of optimizers, for callers who have collected the tensors in C++.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

namespace torchnotes {

// The arguments of an update operator, in the order of its schema: first the lists of tensors, then the numbers.
struct UpdateCall {
  c10::ArrayRef<at::TensorList> lists;  // parameters, gradients, states of the rule, compensations, steps
  c10::ArrayRef<c10::IValue> numbers;   // lr, the numbers of the rule, and the options of all rules
  bool checked = false;                 // whether the tensors are known to match (tensors/parameters.h)
};

// The options of all rules: the last numbers, in the order of the schemas.
enum Option { kMaximize, kStream, kDeviceLr, kMaxGradNorm, kGradNorm, kGradScale, kFoundInf, kShards, kOptions };

inline const c10::IValue& option_of(c10::ArrayRef<c10::IValue> numbers, Option option) {
  return numbers[numbers.size() - kOptions + option];
}

using UpdateOperator = void (*)(const UpdateCall& call);

void adam(const UpdateCall& call);
void rmsprop(const UpdateCall& call);
void sgd(const UpdateCall& call);

}  // namespace torchnotes
