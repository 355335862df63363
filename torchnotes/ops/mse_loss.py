"""The squared error. The formulas and their derivation: csrc/formulas/mse_loss.h.

l = w (x - y)^2,    dl/dx = 2w (x - y) = -dl/dy,    d2l/dx2 = 2w
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss as builtin

from ..autograd.fake import register_fake
from ..autograd.function import Elementwise, differentiable, kernel, show, watched
from ._loss import (
    NONE,
    Reduction,
    autocasting,
    fake_loss,
    gradient_of_each,
    gradient_of_elements,
    native_together,
    reduced,
    reduction_enum,
    respecting_autocast,
    rounding_once,
    steady_sum,
)

register_fake("torchnotes::mse_loss", lambda x, y, w, reduction: fake_loss(x, reduction))
register_fake("torchnotes::mse_loss_backward", lambda g, x, y, w, scale, reduction: torch.empty_like(x))
_forward, _backward = kernel("mse_loss"), kernel("mse_loss_backward")


class SquaredErrorBackward(Elementwise):
    """2 g (x - y), linear in g and in x - y, with g in float64"""

    @staticmethod
    def forward(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
        gradient, scale, reduction = gradient_of_each(g, x)
        return _backward(gradient, x, y, None, scale, reduction)

    @staticmethod
    def by_torch(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (2 * g * (x - y)).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @classmethod
    def backward(cls, ctx: Any, v: Tensor) -> tuple:
        g, x, y = ctx.saved_tensors
        d_g = cls.apply(v.double(), x, y) if ctx.needs_input_grad[0] else None
        d_x = 2 * g * v
        return d_g, d_x, -d_x

    @classmethod
    def tangent(cls, ctx: Any, g_t: Tensor, x_t: Tensor, y_t: Tensor) -> Tensor:
        g, x, y = ctx.saved_tensors
        return cls.apply(g_t, x, y) + (2 * g * (x_t - y_t)).to(x.dtype)


class SquaredError(Elementwise):
    """(x - y)^2 in float64, so that gradients are not those of a rounded mean"""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return _forward(x, y, None, NONE)[0].double()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        d_x = SquaredErrorBackward.apply(g, *ctx.saved_tensors)
        return d_x, -d_x

    @staticmethod
    def tangent(ctx: Any, x_t: Tensor, y_t: Tensor) -> Tensor:
        return SquaredErrorBackward.apply((x_t - y_t).double(), *ctx.saved_tensors).double()


@rounding_once
def _composed(x: Tensor, y: Tensor, w: Tensor | None, reduction: int) -> Tensor:
    loss = SquaredError.apply(x, y)
    return reduced(loss, reduction) if w is None else reduced(loss * w, reduction, steady_sum(w.double()))


@rounding_once
def _composed_backward(g: Tensor, x: Tensor, y: Tensor, w: Tensor | None, scale: Tensor, reduction: int) -> Tensor:
    g = gradient_of_elements(g, scale, reduction, x)
    return SquaredErrorBackward.apply(g if w is None else g * w, x, y)


_loss: Callable[..., Tensor] = differentiable(
    "MSELoss",
    "mse_loss",
    "mse_loss_backward",
    respecting_autocast(_composed, lambda: _loss),
    _composed_backward,
    respects_autocast=True,
)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Computes the squared error (input - target)^2, like :func:`torch.nn.functional.mse_loss`.

    Saves its inputs for the backward pass. With a weight torch saves their difference instead, so that both may be
    overwritten; here that is an error in the backward pass.

    Args:
        input, target: Two tensors of the same shape.
        size_average, reduce: Deprecated by torch in favor of ``reduction``.
        reduction: "mean", "sum" or "none".
        weight: A weight for each element; the mean is weighted.

    Returns:
        A scalar, or a tensor of the shape of ``input`` without a reduction.

    Example:
        >>> F.mse_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        tensor(2.)
    """
    if not (native_together(input, target, weight) or autocasting(input, target, weight)):
        if watched():
            return show(mse_loss, input, target, size_average, reduce, reduction, weight)
        return builtin(input, target, size_average, reduce, reduction, weight)  # type: ignore[call-arg] # stubs lag
    if input.shape == target.shape:
        if weight is not None and weight.shape != input.shape:
            raise ValueError("Weights and input must have the same size.")
    elif weight is not None:  # torch sums the weights before broadcasting them
        return builtin(input, target, size_average, reduce, reduction, weight)  # type: ignore[call-arg] # stubs lag
    else:
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=2,
        )
        input, target = torch.broadcast_tensors(input, target)
    return _loss(input, target, weight, reduction_enum(size_average, reduce, reduction))
