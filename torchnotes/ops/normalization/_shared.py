"""What batch_norm and sync_batch_norm share: validation, running statistics, and channels that are not invertible."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..._native import check_in_place, dense_float
from ..activations import BY_NUMBER, Activation, checked_activation
from ._formulas import Options


def is_supported(options: Options, input: Any, *numbers: Any) -> bool:
    """Whether our kernels support this activation and these tensors, of which all but the first may be None."""
    # The compiler fuses the formula with its neighbors and converts convolutions to channels last. An opaque operator
    # would prevent both: MobileNetV2 took twice as long (docs/decisions/compile.md).
    if is_compiling() or not BY_NUMBER[options.activation].fused:
        return False
    return dense_float(input) and all([x is None or dense_float(x) for x in numbers])  # noqa: C419 # a list is faster


def checked_options(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: Activation | None,
    negative_slope: float,
    center_only: bool,
) -> Options:
    number = checked_activation(activation)
    if not center_only and (eps < 0 or (training and eps == 0)):
        kind = "positive during training" if training else "non-negative"
        raise ValueError(f"batch_norm eps must be {kind}, but got {eps}")
    if training and not center_only and (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    if not isinstance(training, bool):
        raise TypeError(f"batch_norm(): argument 'training' (position 6) must be bool, not {type(training).__name__}")
    if not isinstance(eps, float):
        eps = _number("batch_norm", "eps", eps)
    return Options(training, eps, number, float(negative_slope), bool(center_only))


def _number(operation: str, name: str, value: Any) -> float:
    """The value as a float, if torch would accept it as one."""
    if isinstance(value, Tensor):
        taken = value.dim() == 0 and not value.is_complex() and not value.requires_grad
    else:
        taken = isinstance(value, Real) and not isinstance(value, Fraction)
    if not taken:
        raise TypeError(f"{operation}(): argument '{name}' must be float, not {type(value).__name__}")
    return float(value)


def checked_momentum(
    operation: str,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: Any,
    updates: bool,
    center_only: bool,
) -> float:
    """Validates the running statistics before anything is written, and returns the momentum."""
    running = ("running_mean", running_mean, updates), ("running_var", running_var, updates and not center_only)
    for name, statistic, is_updated in running:
        if statistic is None:
            continue
        if statistic.requires_grad and torch.is_grad_enabled():
            refuse_gradient(operation, name)
        if is_updated:
            check_in_place(statistic)
    return momentum if isinstance(momentum, float) else _number(operation, "momentum", momentum)


def refuse_gradient(operation: str, name: str) -> None:
    raise RuntimeError(f"{operation} is not differentiable with respect to {name}, which requires grad")


def refuse_graph(operation: str) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{operation}: the second derivative needs the input, which has been overwritten. Use inplace=False."
        )


def moments_for_running(x: Tensor, center_only: bool) -> tuple[Tensor, Tensor]:
    """The mean and the unbiased variance of each channel. With `center_only` the variance is not used."""
    variance, mean = torch.var_mean(x.detach(), [0, *range(2, x.dim())], correction=0 if center_only else 1)
    return mean, variance


def update_running(
    running_mean: Tensor | None, running_var: Tensor | None, of_batch: Sequence[Tensor], momentum: float
) -> None:
    """running <- (1 - momentum) running + momentum new"""
    for running, new in zip((running_mean, running_var), of_batch, strict=True):
        if running is None:
            continue
        if running.dtype == new.dtype:
            running.lerp_(new, momentum)
        else:
            running.copy_(torch.lerp(running.to(new.dtype), new, momentum))


def by_channels(
    function: Callable[..., tuple[Tensor, ...]],
    dims: tuple[int, ...],
    y: Tensor,
    channels: Tensor,
    kept: Tensor,
    g: Tensor,
    *numbers: Tensor | None,
) -> tuple[Tensor, ...]:
    """function(g, y, *numbers) with the saved channels replaced by function(g, x, *their numbers).

    dims: the dimensions of the results that are channels
    """
    if len(channels) == y.shape[1]:
        return function(g, kept, *numbers, from_output=False)
    results = function(g, y, *numbers, from_output=True)
    if len(channels) > 0:
        of_these = (None if p is None else p.index_select(-1, channels) for p in numbers)
        some = function(g.index_select(1, channels), kept, *of_these, from_output=False)
        for all_channels, few, dim in zip(results, some, dims, strict=True):
            all_channels.index_copy_(dim, channels, few)
    return results


def existing(of_all: tuple, weight: Tensor | None, bias: Tensor | None) -> tuple:
    """The elements of a tuple (for x, weight, bias) whose tensors exist."""
    return tuple(one for one, p in zip(of_all, (True, weight, bias), strict=True) if p is not None)


def needed_gradients(ctx: Any, gradients: tuple) -> tuple:
    return tuple(g if wanted else None for g, wanted in zip(gradients, ctx.needs_input_grad[:3], strict=True))
