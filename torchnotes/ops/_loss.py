"""What all losses share: torch's arguments for the reduction, and what follows from them."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import _reduction
from torch.overrides import has_torch_function

from .._native import dense_float
from ..autograd.function import autocasts, native

Reduction = Literal["none", "mean", "sum"]
NONE, MEAN, SUM = (_reduction.get_enum(reduction) for reduction in ("none", "mean", "sum"))
_ENUM = {"none": NONE, "mean": MEAN, "sum": SUM}


def reduction_enum(size_average: bool | None, reduce: bool | None, reduction: str) -> int:
    """The number of a reduction. For deprecated forms torch warns; for invalid ones it raises."""
    if size_average is not None or reduce is not None:
        return _reduction.legacy_get_enum(size_average, reduce)
    return _ENUM[reduction] if isinstance(reduction, str) and reduction in _ENUM else _reduction.get_enum(reduction)


def native_together(input: Any, *others: Any) -> bool:
    """Whether our kernels support these tensors, of which all but the first may be None, in one call."""
    if not native(input):
        return False
    for x in others:
        if x is not None and not (dense_float(x) and x.dtype == input.dtype and x.device == input.device):
            return False
    return True


def autocasting(*tensors: Any) -> bool:
    """Whether autocast is enabled and these tensors would be native together after it converts them to float32."""
    if not isinstance(tensors[0], Tensor) or has_torch_function(tensors):
        return False
    return autocasts(tensors[0]) and native_together(*map(widened, tensors))


def widened(x: Any) -> Any:
    """The argument as autocast passes it to an operation that runs in float32."""
    return x.float() if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64 else x


def rounding_once(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wraps function to compute in at least float32 and to return the dtype of the first argument."""

    def call(first: Tensor, *rest: Any) -> Tensor:
        return function(*map(widened, (first, *rest))).to(first.dtype)

    return call


def respecting_autocast(function: Callable[..., Tensor], again: Callable[..., Callable[..., Tensor]]) -> Callable:
    """Wraps function so that under autocast, again() is called instead, with the arguments in float32."""

    def call(input: Tensor, *rest: Any) -> Tensor:
        if not autocasts(input):
            return function(input, *rest)
        with torch.autocast(input.device.type, enabled=False):
            return again()(*map(widened, (input, *rest)))

    return call


def reduced(loss: Tensor, reduction: int, count: Tensor | None = None) -> Tensor:
    """Reduces the losses of the elements. `count` replaces n as the divisor of a mean."""
    if reduction == NONE:
        return loss
    if reduction == SUM:
        return steady_sum(loss)
    return steady_sum(loss) / (loss.numel() if count is None else count)


def steady_sum(x: Tensor, part: int = 16384) -> Tensor:
    """The sum, with the same bits for any number of threads: torch splits a long row of numbers among its threads."""
    if is_compiling() or x.numel() <= part:
        return x.sum()
    whole = x.numel() // part * part
    flat = x.flatten()
    return flat[:whole].view(-1, part).sum(1).sum() + flat[whole:].sum()


def gradient_of_elements(g: Tensor, scale: Tensor, reduction: int, like: Tensor) -> Tensor:
    """The gradient of each element's loss, in float64, given the gradient of the reduced loss."""
    scaled = g.double() if reduction == NONE or like.numel() == 0 else g * scale  # the scale of an empty loss is 1 / 0
    return scaled.expand_as(like)


def gradient_of_each(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None, int]:
    """(gradient, scale, reduction) for a native backward, given the float64 gradient of each element's loss."""
    if g.numel() > 0 and not any(g.stride()):  # the same number for all, as after a sum
        return x.new_ones(()), g[(0,) * g.dim()], SUM
    return g.to(x.dtype), None, NONE


def fake_loss(input: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    """What the operator of a loss returns: the loss and, if it is reduced, the scale."""
    if reduction == NONE:
        return torch.empty_like(input), input.new_empty(0, dtype=torch.float64)
    return input.new_empty(()), input.new_empty((), dtype=torch.float64)


def check_in_range(target: Tensor, classes: int, ignore_index: int) -> None:
    """Checks all rows before the first is computed. (On other devices the kernel makes an invalid row NaN.)"""
    if target.is_floating_point() or not target.is_cpu or target.numel() == 0:
        return
    least, greatest = target.aminmax()
    if least >= 0 and greatest < classes:
        return
    wrong = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if wrong.any():
        at = wrong.nonzero()[0].tolist()
        raise IndexError(
            f"Target {target[tuple(at)]} is out of bounds: expected an index of one of {classes} classes or "
            f"ignore_index = {ignore_index} at {at}."
        )
