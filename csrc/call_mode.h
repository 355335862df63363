// What a call needs: the kernel alone, a graph as well, or the rules of a transform.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/forward_grad.h>

namespace torchnotes {

// Whether a torch.func transform or a level of forward mode is active.
inline bool transforming() {
  const auto active = c10::impl::tls_local_dispatch_key_set().included_;
  return active.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         torch::autograd::ForwardADLevel::try_get_by_idx(0);
}

// Whether an operation on x belongs into the graph.
inline bool wants_graph(const at::Tensor& x) { return at::GradMode::is_enabled() && x.requires_grad(); }

}  // namespace torchnotes
