// Which arguments an operator writes.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/stack.h>
#include <c10/core/InferenceMode.h>

#include <vector>

namespace torchnotes {

// Whether grad_scale, one of the optional last arguments, is given.
inline bool has_grad_scale(const c10::FunctionSchema& schema, const torch::jit::Stack& stack) {
  const auto index = schema.argumentIndexWithName("grad_scale");
  return index && !torch::jit::peek(stack, *index, schema.arguments().size()).isNone();
}

// The tensors, or lists of them, that a call writes. A step writes the gradients only if it unscales them.
inline std::vector<c10::IValue> written_arguments(const c10::FunctionSchema& schema, const torch::jit::Stack& stack) {
  const auto& arguments = schema.arguments();
  std::vector<c10::IValue> found;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* const alias = arguments[i].alias_info();
    if (alias && alias->isWrite() && (arguments[i].name() != "grads" || has_grad_scale(schema, stack))) {
      found.push_back(torch::jit::peek(stack, i, arguments.size()));
    }
  }
  return found;
}

template <class F>
void for_each_tensor(const std::vector<c10::IValue>& values, const F& f) {
  for (const c10::IValue& value : values) {
    if (value.isTensor()) {
      f(value.toTensor());
    } else {
      for (const c10::IValue& element : value.toListRef()) {
        f(element.toTensor());
      }
    }
  }
}

inline void check_writable(const at::Tensor& x) {
  TORCH_CHECK(
      !x.is_inference() || c10::InferenceMode::is_enabled(),
      "Inplace update to inference tensor outside InferenceMode is not allowed."
  );
  TORCH_CHECK(
      !x._is_zerotensor(),
      "ZeroTensors are immutable. Please use the materialized zero tensor obtained using .clone() if you want a "
      "mutable tensor."
  );
}

}  // namespace torchnotes
