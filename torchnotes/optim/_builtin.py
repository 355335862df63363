"""Fallback to torch's own step, for what our kernels do not support: sparse gradients, tensor subclasses, other
devices, states whose dtype differs from the parameter's, and differentiable steps."""

import inspect
from collections.abc import Callable
from typing import Any

import torch


def builtin_step(optimizer: type[torch.optim.Optimizer]) -> Callable[..., Any]:
    """The step of a torch optimizer, without hooks, which ours runs itself, and without a change of grad mode."""
    return inspect.unwrap(optimizer.step)


def step_as_torch(optimizer: Any) -> None:
    """Runs torch's step for one of our optimizers. Of our additional options it supports clipping.

    torch's step updates one parameter after the other. If it raises, the cause is most likely in a group that our
    kernels do not support. These groups go first, so that the others are still unchanged. Gradients are unscaled in
    place, as by our kernels, and clipped in copies.
    """
    groups = optimizer.param_groups
    in_order = sorted(groups, key=lambda group: optimizer.collected([group], []) is not None)
    decouples = "decoupled_weight_decay" in optimizer.extra_options
    for group in groups:
        if group["rounding"] != "nearest" or (decouples and group["decoupled_weight_decay"]):
            raise RuntimeError(
                f"{type(optimizer).__name__}: rounding and decoupled_weight_decay need dense gradients, plain "
                "parameters on a CPU or CUDA device, gradients and states of the parameter's dtype, and "
                "differentiable=False"
            )
    of_scaler = {name: vars(optimizer)[name] for name in ("grad_scale", "found_inf") if name in vars(optimizer)}
    scale, found_inf = of_scaler.get("grad_scale"), of_scaler.get("found_inf")
    if found_inf is not None and found_inf.item():
        return
    clipped = [group for group in groups if group["max_grad_norm"] is not None]
    grads = {p: p.grad for group in groups for p in group["params"] if p.grad is not None}
    before = [grad.clone() for grad in grads.values()] if scale is not None else []
    try:
        optimizer.param_groups = in_order
        vars(optimizer).update(dict.fromkeys(of_scaler))  # torch's plain step requires it
        if scale is not None:
            for grad in grads.values():
                grad.div_(scale.to(grad.device))
        if clipped:
            for p, grad in grads.items():
                p.grad = grad.clone()
            norm = optimizer.norm_over_ranks()
            if norm is None:
                norm = torch.nn.utils.get_total_norm([p.grad for p in grads])
            optimizer.grad_norm = norm
            for group in clipped:
                torch.nn.utils.clip_grads_with_norm_(group["params"], group["max_grad_norm"], norm)
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            optimizer.builtin_step()
    except BaseException:
        for grad, value in zip(grads.values(), before, strict=False):
            grad.copy_(value)
        raise
    finally:
        for p, grad in grads.items():
            p.grad = grad
        optimizer.param_groups = groups
        vars(optimizer).update(of_scaler)
