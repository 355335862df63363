// Which arguments an operator writes.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/stack.h>
#include <c10/core/InferenceMode.h>

#include <string>
#include <vector>

namespace torchnotes {

// Whether a call writes an argument that it may write: gradients only to unscale them, and running statistics only by a
// momentum.
inline bool is_written(const std::string& name, const c10::FunctionSchema& schema, const torch::jit::Stack& stack) {
  const auto is_given = [&](const char* condition) {
    const auto index = schema.argumentIndexWithName(condition);
    return index && !torch::jit::peek(stack, *index, schema.arguments().size()).isNone();
  };
  if (name == "grads") {
    return is_given("grad_scale");
  }
  return (name != "running_mean" && name != "running_var") || is_given("momentum");
}

// The tensors, or lists of them, that a call writes.
inline std::vector<c10::IValue> written_arguments(const c10::FunctionSchema& schema, const torch::jit::Stack& stack) {
  const auto& arguments = schema.arguments();
  std::vector<c10::IValue> found;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* const alias = arguments[i].alias_info();
    const c10::IValue& value = torch::jit::peek(stack, i, arguments.size());
    if (alias && alias->isWrite() && !value.isNone() && is_written(arguments[i].name(), schema, stack)) {
      found.push_back(value);
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
