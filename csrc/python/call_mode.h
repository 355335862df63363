// What a call needs: the kernel alone, a graph too, or the rules of a transform.
#pragma once

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/jit/frontend/tracer.h>

// Declared here because its header, ATen/functorch/TensorWrapper.h, includes one that torch does not ship.
namespace at::functorch {
TORCH_API at::Tensor unwrapIfDead(const at::Tensor& tensor);
}

namespace torchnotes {

inline bool in_torch_func() {
  return c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

// Whether a torch.func transform or forward-mode AD is active.
inline bool transforming() { return in_torch_func() || torch::autograd::ForwardADLevel::try_get_by_idx(0); }

// Whether torch.fx (make_fx, torch.func.linearize) or torch.jit.trace is recording the call.
inline bool is_traced() {
  using c10::impl::TorchDispatchModeTLS;
  return (TorchDispatchModeTLS::any_modes_set() &&
          TorchDispatchModeTLS::get_mode(c10::impl::TorchDispatchModeKey::PROXY).has_value()) ||
         torch::jit::tracer::isTracing();
}

// Whether torch.func.functionalize is among the active transforms, which rejects autograd Functions.
inline bool functionalizes() {
  if (!in_torch_func()) {
    return false;
  }
  const auto functorch = pybind11::module_::import("torch._C._functorch");
  const auto functionalize = functorch.attr("TransformType").attr("Functionalize");
  for (const auto level : functorch.attr("get_interpreter_stack")()) {
    if (level.attr("key")().equal(functionalize)) {
      return true;
    }
  }
  return false;
}

// Whether the call must consist of torch's own operations.
inline bool is_recorded() {
  constexpr c10::DispatchKeySet kMayBe(
      {c10::DispatchKey::Python, c10::DispatchKey::FuncTorchDynamicLayerFrontMode, c10::DispatchKey::Tracer}
  );
  if (!c10::impl::tls_local_dispatch_key_set().included_.has_any(kMayBe)) {
    return false;  // the common case, decided by a single check
  }
  const bool differentiates = at::GradMode::is_enabled() || transforming();
  return (is_traced() && (differentiates || torch::jit::tracer::isTracing())) || functionalizes();
}

// Whether a TorchFunctionMode must see the call before any kernel runs.
inline bool is_watched() { return at::impl::torch_function_mode_enabled(); }

// Whether x is a wrapper of a torch.func level that has ended, as in a pullback or for a tensor that outlives its
// transform. Its own requires_grad is meaningless; only that of the wrapped tensor counts
// (docs/decisions/ended-transforms.md).
inline bool is_dead(const at::Tensor& x) {
  return x.unsafeGetTensorImpl()->key_set().has(c10::DispatchKey::FuncTorchGradWrapper) &&
         !at::functorch::unwrapIfDead(x).is_same(x);
}

inline at::Tensor unwrapped(at::Tensor x) {
  while (is_dead(x)) {
    x = at::functorch::unwrapIfDead(x);
  }
  return x;
}

// Whether x is batched by torch.autograd.grad(is_grads_batched=True), which uses a vmap of its own instead of
// torch.func.
inline bool is_batched(const at::Tensor& x) {
  return x.unsafeGetTensorImpl()->key_set().has(c10::DispatchKey::Batched);
}

// Whether autograd records operations on x.
inline bool wants_graph(const at::Tensor& x) { return at::GradMode::is_enabled() && x.requires_grad(); }

}  // namespace torchnotes
