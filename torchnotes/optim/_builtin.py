"""torch's own step, for what no kernel here takes: sparse gradients, subclasses of tensors, other devices, states of
another dtype than the parameter's, and a step that is differentiable."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def builtin_step(optimizer: type[torch.optim.Optimizer]) -> Callable[..., Any]:
    """The step of one of torch's optimizers without its hooks, which ours runs, and its choice of gradient mode."""
    return inspect.unwrap(optimizer.step)


def step_as_torch(optimizer: Any) -> None:
    """A step of one of our optimizers, by torch's. Of our options it knows clipping."""
    groups = optimizer.param_groups
    for group in groups:
        if group["rounding"] != "nearest" or (group.get("decoupled_weight_decay") and not optimizer.torch_decouples):
            raise RuntimeError(
                f"{type(optimizer).__name__}: rounding and decoupled_weight_decay need dense gradients, parameters on "
                "a CPU or CUDA device of no subclass of Tensor, gradients and states of the parameter's dtype, and "
                "differentiable=False"
            )
    grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    if not _unscaled(optimizer, grads):
        return
    if any(group["max_grad_norm"] is not None for group in groups):
        norm = optimizer.norm_over_ranks()
        optimizer.grad_norm = torch.nn.utils.get_total_norm(grads) if norm is None else norm
        for group in groups:
            if group["max_grad_norm"] is not None:
                torch.nn.utils.clip_grads_with_norm_(group["params"], group["max_grad_norm"], optimizer.grad_norm)
    with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
        optimizer.builtin_step()


def _unscaled(optimizer: Any, grads: list[Tensor]) -> bool:
    """Takes the scale of the loss out of the gradients; False if one of them is infinite."""
    scale, found_inf = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    if scale is None and found_inf is None:
        return True
    optimizer.grad_scale = optimizer.found_inf = None  # torch's plain step insists
    if found_inf is not None and found_inf.item():
        return False
    if scale is not None:
        for grad in grads:
            grad.div_(scale.to(grad.device))
    return True
