// All native operators of torchnotes, one line each. They are implemented in ops/, the fake kernels are in
// torchnotes/ops/X.py.
#include <torch/library.h>

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "tensors/written.h"

namespace torchnotes {
namespace {

constexpr std::initializer_list<const char*> kSchemas = {
    "sigmoid(Tensor input) -> (Tensor output)",
    "sigmoid_backward(Tensor grad, Tensor output) -> Tensor",
    "sigmoid_curvature(Tensor tangent, Tensor grad, Tensor output) -> Tensor",
    "tanh(Tensor input) -> (Tensor output)",
    "tanh_backward(Tensor grad, Tensor output) -> Tensor",
    "tanh_curvature(Tensor tangent, Tensor grad, Tensor output) -> Tensor",
    "relu(Tensor input) -> (Tensor output)",
    "relu_(Tensor(a!) input) -> ()",
    "relu_backward(Tensor grad, Tensor output) -> Tensor",
    "leaky_relu(Tensor input, float negative_slope) -> (Tensor output)",
    "leaky_relu_(Tensor(a!) input, float negative_slope) -> ()",
    "leaky_relu_backward(Tensor grad, Tensor reference, float negative_slope) -> Tensor",
    "softplus(Tensor input, float beta, float threshold) -> (Tensor output)",
    "softplus_backward(Tensor grad, Tensor input, float beta, float threshold) -> Tensor",
    "softplus_curvature(Tensor tangent, Tensor grad, Tensor input, float beta, float threshold) -> Tensor",
    "softmax(Tensor input, int dim) -> (Tensor output)",
    "softmax_backward(Tensor grad, Tensor output, int dim) -> Tensor",
    "log_softmax(Tensor input, int dim) -> (Tensor output)",
    "log_softmax_backward(Tensor grad, Tensor output, int dim) -> Tensor",
    "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
    "float? momentum, bool training, float eps, int activation, float negative_slope, bool center_only, "
    "Tensor? given_statistics=None) -> (Tensor output, Tensor statistics)",
    "batch_norm_(Tensor(a!) input, Tensor? weight, Tensor? bias, Tensor(b!)? running_mean, Tensor(c!)? running_var, "
    "float? momentum, bool training, float eps, int activation, float negative_slope, bool center_only, bool keep, "
    "Tensor? given_statistics=None) -> (Tensor statistics, Tensor channels, Tensor kept)",
    "batch_norm_backward(Tensor grad, Tensor reference, Tensor? weight, Tensor? bias, Tensor statistics, "
    "bool training, float eps, int activation, float negative_slope, bool center_only, bool from_output=False) "
    "-> (Tensor, Tensor, Tensor)",
    "batch_norm_moments(Tensor input) -> Tensor",
    "batch_norm_totals(Tensor grad, Tensor reference, Tensor? weight, Tensor? bias, Tensor statistics, "
    "int activation, float negative_slope, bool from_output=False) -> Tensor",
    "batch_norm_gradient(Tensor grad, Tensor reference, Tensor? weight, Tensor? bias, Tensor statistics, "
    "Tensor means, int activation, float negative_slope, bool center_only, bool from_output=False) -> Tensor",
    "linear(Tensor input, Tensor weight, Tensor? bias, int activation, float negative_slope, bool widens=False) "
    "-> (Tensor output)",
    "linear_backward(Tensor grad, Tensor? input, Tensor? weight, Tensor? output, int activation, "
    "float negative_slope, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    "cross_entropy(Tensor input, Tensor target, Tensor? weight, int reduction, int ignore_index, "
    "float label_smoothing, float z_loss, float logit_softcap, bool zero_if_empty, int classes_of_all=0) "
    "-> (Tensor loss, Tensor statistics, Tensor scale)",
    "cross_entropy_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight, Tensor statistics, "
    "Tensor? scale, int reduction, int ignore_index, float label_smoothing, float z_loss, float logit_softcap, "
    "int classes_of_all=0) -> Tensor",
    "cross_entropy_backward_(Tensor grad, Tensor(a!) input, Tensor target, Tensor? weight, Tensor statistics, "
    "Tensor? scale, int reduction, int ignore_index, float label_smoothing, float z_loss, float logit_softcap, "
    "int classes_of_all=0) -> ()",
    "cross_entropy_curvature(Tensor tangent, Tensor grad, Tensor input, Tensor target, Tensor? weight, "
    "Tensor statistics, int ignore_index, float label_smoothing, float z_loss, float logit_softcap) "
    "-> (Tensor, Tensor)",
    "dropout(Tensor input, Tensor key, float p, int[]? shard=None) -> (Tensor output)",
    "dropout_(Tensor(a!) input, Tensor key, float p, int[]? shard=None) -> ()",
    "gaussian_dropout(Tensor input, Tensor key, float mean, float sigma, int[]? shard=None) -> (Tensor output)",
    "gaussian_dropout_(Tensor(a!) input, Tensor key, float mean, float sigma, int[]? shard=None) -> ()",
    "uniform_(Tensor(a!) self, Tensor key, float a, float b, int[]? shard=None) -> ()",
    "normal_(Tensor(a!) self, Tensor key, float mean, float std, int[]? shard=None) -> ()",
    "trunc_normal_(Tensor(a!) self, Tensor key, float mean, float std, float a, float b, int[]? shard=None) -> ()",
    "sgd_(Tensor(a!)[] params, Tensor(b!)[] grads, Tensor(c!)[] momentum_buffers, Tensor(d!)[] compensations, "
    "Tensor(e!)[] steps, float lr, float momentum, float dampening, float weight_decay, bool nesterov, bool first, "
    "bool maximize, int? stream=None, Tensor? device_lr=None, float max_grad_norm=0, Tensor? grad_norm=None, "
    "Tensor? grad_scale=None, Tensor? found_inf=None, int[] shards=[]) -> ()",
    "rmsprop_(Tensor(a!)[] params, Tensor(b!)[] grads, Tensor(c!)[] square_avgs, Tensor(d!)[] grad_avgs, "
    "Tensor(e!)[] momentum_buffers, Tensor(f!)[] compensations, Tensor(g!)[] steps, float lr, float alpha, float eps, "
    "float weight_decay, float momentum, bool decoupled_weight_decay, bool maximize, int? stream=None, "
    "Tensor? device_lr=None, float max_grad_norm=0, Tensor? grad_norm=None, Tensor? grad_scale=None, "
    "Tensor? found_inf=None, int[] shards=[]) -> ()",
    "adam_(Tensor(a!)[] params, Tensor(b!)[] grads, Tensor(c!)[] exp_avgs, Tensor(d!)[] exp_avg_sqs, "
    "Tensor(e!)[] max_exp_avg_sqs, Tensor(f!)[] compensations, Tensor(g!)[] steps, float lr, float beta1, float beta2, "
    "float eps, float weight_decay, bool decoupled_weight_decay, bool maximize, int? stream=None, "
    "Tensor? device_lr=None, float max_grad_norm=0, Tensor? grad_norm=None, Tensor? grad_scale=None, "
    "Tensor? found_inf=None, int[] shards=[]) -> ()",
    "gradient_norm(Tensor[] tensors) -> Tensor",
    "mse_loss(Tensor input, Tensor target, Tensor? weight, int reduction) -> (Tensor loss, Tensor scale)",
    "mse_loss_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight, Tensor? scale, int reduction) "
    "-> Tensor",
    "binary_cross_entropy_with_logits(Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, int reduction, "
    "float label_smoothing, float? ignore_index) -> (Tensor loss, Tensor scale)",
    "binary_cross_entropy_with_logits_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight, "
    "Tensor? pos_weight, Tensor? scale, int reduction, float label_smoothing, float? ignore_index) -> Tensor",
    "pinball_loss(Tensor input, Tensor target, Tensor? weight, float[] quantiles, int reduction, float smoothing) "
    "-> (Tensor loss, Tensor scale)",
    "pinball_loss_backward(Tensor grad, Tensor input, Tensor target, Tensor? weight, Tensor? scale, float[] quantiles, "
    "int reduction, float smoothing) -> Tensor",
};

std::string name_of(const std::string& schema) { return schema.substr(0, schema.find('(')); }

bool has_lists(const std::string& schema) {
  return schema.find("[] params") != schema.npos || schema.find("[] tensors") != schema.npos;
}

bool writes(const std::string& schema) { return schema.find("(a!)") != std::string::npos; }

#ifndef TORCHNOTES_WITH_CUDA
void built_without_cuda(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false,
      op.schema().name(),
      ": torchnotes was built without CUDA but got a CUDA tensor. Reinstall it with a CUDA toolkit and a CUDA build of "
      "torch present, or with TORCHNOTES_CUDA=1; torchnotes.build_info() describes the build."
  );
}
#endif

// Bumps the version counter of what is written, so that a backward pass that needs the old value raises.
void write_and_move_version(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto values = written_arguments(op.schema(), *stack);
  for_each_tensor(values, check_writable);
  op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
  for_each_tensor(values, [](const at::Tensor& tensor) { tensor.unsafeGetTensorImpl()->bump_version(); });
}

// torch's fallback for negative views assumes that whatever is written is also returned, and writes past the end of the
// stack otherwise.
void write_to_a_copy(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;
  for (size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& value = torch::jit::peek(*stack, i, arguments.size());
    if (!value.isTensor() || !value.toTensor().is_neg()) {
      continue;
    }
    const at::Tensor given = value.toTensor(), copy = given.resolve_neg();
    if (arguments[i].alias_info() && arguments[i].alias_info()->isWrite()) {
      copies.emplace_back(given, copy);
    }
    value = copy;
  }
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::Negative), stack);
  for (const auto& [given, copy] : copies) {
    given.copy_(copy);
  }
}

}  // namespace
}  // namespace torchnotes

using namespace torchnotes;

TORCH_LIBRARY(torchnotes, m) {
  for (const char* schema : kSchemas) {
    m.def(schema);
  }
}

TORCH_LIBRARY_IMPL(torchnotes, ADInplaceOrView, m) {
  for (const char* schema : kSchemas) {
    if (writes(schema)) {
      m.impl(name_of(schema).c_str(), torch::CppFunction::makeFromBoxedFunction<&write_and_move_version>());
    }
  }
}

// Optimizers resolve such views themselves, because torch's fallbacks reject lists that are written.
void fall_through_for_lists(torch::Library& m) {
  for (const char* schema : kSchemas) {
    if (has_lists(schema)) {
      m.impl(name_of(schema).c_str(), torch::CppFunction::makeFallthrough());
    }
  }
}

TORCH_LIBRARY_IMPL(torchnotes, Conjugate, m) { fall_through_for_lists(m); }
TORCH_LIBRARY_IMPL(torchnotes, Negative, m) {
  fall_through_for_lists(m);
  for (const char* schema : kSchemas) {
    if (writes(schema) && !has_lists(schema)) {
      m.impl(name_of(schema).c_str(), torch::CppFunction::makeFromBoxedFunction<&write_to_a_copy>());
    }
  }
}
TORCH_LIBRARY_IMPL(torchnotes, ZeroTensor, m) { fall_through_for_lists(m); }

#ifndef TORCHNOTES_WITH_CUDA
TORCH_LIBRARY_IMPL(torchnotes, CUDA, m) {
  for (const char* schema : kSchemas) {
    m.impl(name_of(schema).c_str(), torch::CppFunction::makeFromBoxedFunction<&built_without_cuda>());
  }
}
#endif
