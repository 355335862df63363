"""The pinball loss. The formulas and their derivation: csrc/formulas/pinball_loss.h.

rho = tau r for r = y - f >= 0, else -sigma r,    drho/df = -tau, else sigma = -drho/dy,    sigma = 1 - tau
within a window of half-width h around r = 0:    drho/df = (sigma - tau)/2 - r/(2h),    d2rho/df2 = 1/(2h)
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..autograd.compiled import worthwhile
from ..autograd.fake import register_fake
from ..autograd.function import Elementwise, differentiable, has_proxy, kernel, show, watched
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

register_fake("torchnotes::pinball_loss", lambda f, y, w, quantiles, reduction, h: fake_loss(f, reduction))
register_fake(
    "torchnotes::pinball_loss_backward", lambda g, f, y, w, scale, quantiles, reduction, h: torch.empty_like(f)
)
_NUMBER = (float, int, numbers.Real)  # including numpy's; checking float first is fastest

_forward, _backward = kernel("pinball_loss"), kernel("pinball_loss_backward")


class PinballBackward(Elementwise):
    """g drho/df, with g in float64"""

    @staticmethod
    def forward(g: Tensor, f: Tensor, y: Tensor, quantiles: Sequence[float], h: float) -> Tensor:
        gradient, scale, reduction = gradient_of_each(g, f)
        return _backward(gradient, f, y, None, scale, quantiles, reduction, h)

    @staticmethod
    def by_torch(g: Tensor, f: Tensor, y: Tensor, quantiles: Sequence[float], h: float) -> Tensor:
        tau, r = torch.tensor(quantiles, dtype=f.dtype, device=f.device).squeeze(), y - f
        slope = torch.where(r >= h, -tau, torch.where(r <= -h, 1 - tau, (1 - 2 * tau - r / (h or 1)) / 2))
        return (g * slope).to(f.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.quantiles, ctx.h = inputs
        ctx.save_for_backward(*tensors)

    @classmethod
    def backward(cls, ctx: Any, v: Tensor) -> tuple:
        g, f, y = ctx.saved_tensors
        d_g = cls.apply(v.double(), f, y, ctx.quantiles, ctx.h) if ctx.needs_input_grad[0] else None
        d_f = cls.curved(v, g, f, y, ctx.h)
        return d_g, d_f, -d_f, None, None

    @classmethod
    def tangent(cls, ctx: Any, g_t: Tensor, f_t: Tensor, y_t: Tensor, *constants: Any) -> Tensor:
        g, f, y = ctx.saved_tensors
        return cls.apply(g_t, f, y, ctx.quantiles, ctx.h) + cls.curved(f_t - y_t, g, f, y, ctx.h).to(f.dtype)

    @staticmethod
    def curved(v: Tensor, g: Tensor, f: Tensor, y: Tensor, h: float) -> Tensor:
        """v g d2rho/df2"""
        return v * g * (((y - f).abs() < h).to(f.dtype) / (2 * h)) if h else torch.zeros_like(v)


class Pinball(Elementwise):
    """rho in float64"""

    @staticmethod
    def forward(f: Tensor, y: Tensor, quantiles: Sequence[float], h: float) -> Tensor:
        return _forward(f, y, None, quantiles, NONE, h)[0].double()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.quantiles, ctx.h = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        d_f = PinballBackward.apply(g, *ctx.saved_tensors, ctx.quantiles, ctx.h)
        return d_f, -d_f, None, None

    @staticmethod
    def tangent(ctx: Any, f_t: Tensor, y_t: Tensor, *constants: Any) -> Tensor:
        return PinballBackward.apply((f_t - y_t).double(), *ctx.saved_tensors, ctx.quantiles, ctx.h).double()


def _plain(f: Tensor, y: Tensor, tau: Tensor, sigma: Tensor, h: float) -> Tensor:
    r = y - f
    loss = torch.where(r >= 0, tau * r, -sigma * r)
    if h == 0:
        return loss
    c = r.clamp(-h, h)
    return torch.where(r.abs() < h, ((tau - sigma) * c + c * c / (2 * h) + h / 2) / 2, loss)


class CompiledPinball(torch.autograd.Function):
    """The same with a backward that saves no mask (see activations/_compiled.py).

    Without smoothing it tells r >= 0 by clamping a multiple of r, plus 1, that exceeds the bounds for every r but 0:
    the factor is the largest number twice, for denormal r.
    """

    @staticmethod
    def forward(f: Tensor, y: Tensor, tau: Tensor, sigma: Tensor, h: float) -> Tensor:
        return _plain(f, y, tau, sigma, h)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.h = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        f, y, tau, sigma = ctx.saved_tensors
        r = (y - f).to(tau.dtype)
        most = torch.finfo(r.dtype).max
        c = r / ctx.h if ctx.h else r * most * most + 1
        d_f = (g * 0.5 * (sigma - tau - c.clamp(-1, 1))).to(g.dtype)
        return d_f, -d_f, None, None, None


def _reduced(loss: Tensor, w: Tensor | None, reduction: int) -> Tensor:
    if w is None:
        return reduced(loss, reduction)
    return reduced(loss * w, reduction, steady_sum(w.expand_as(loss)))


@rounding_once
def _composed(f: Tensor, y: Tensor, w: Tensor | None, quantiles: Sequence[float], reduction: int, h: float) -> Tensor:
    return _reduced(Pinball.apply(f, y.expand_as(f), quantiles, h), w, reduction)


def _composed_of_plain_operations(
    f: Tensor, y: Tensor, w: Tensor | None, quantiles: Sequence[float], reduction: int, h: float
) -> Tensor:
    dtype = torch.promote_types(f.dtype, torch.float32)
    exact = (quantiles, [1 - tau for tau in quantiles])
    tau, sigma = (torch.tensor(numbers, dtype=dtype, device=f.device).squeeze() for numbers in exact)
    if worthwhile(f) and f.dtype == y.dtype:
        loss = CompiledPinball.apply(f, y.expand_as(f), tau, sigma, h)
    else:
        loss = _plain(f, y, tau, sigma, h)
    return _reduced(loss.to(torch.promote_types(f.dtype, y.dtype)) if f.is_floating_point() else loss, w, reduction)


@rounding_once
def _composed_backward(
    g: Tensor,
    f: Tensor,
    y: Tensor,
    w: Tensor | None,
    scale: Tensor,
    quantiles: Sequence[float],
    reduction: int,
    h: float,
) -> Tensor:
    g = gradient_of_elements(g, scale, reduction, f)
    return PinballBackward.apply(g if w is None else g * w, f, y.expand_as(f), quantiles, h)


_loss: Callable[..., Tensor] = differentiable(
    "PinballLoss",
    "pinball_loss",
    "pinball_loss_backward",
    respecting_autocast(_composed, lambda: _loss),
    _composed_backward,
    respects_autocast=True,
)


def checked_quantiles(quantiles: float | Sequence[float], smoothing: float) -> tuple[float, ...]:
    taus = (float(quantiles),) if isinstance(quantiles, _NUMBER) else tuple(map(float, quantiles))
    for tau in taus:
        if not 0 < tau < 1:
            raise ValueError(f"quantiles must lie between 0 and 1, got {tau}")
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing must be non-negative and finite, got {smoothing}")
    return taus


def pinball_loss(
    input: Tensor,
    target: Tensor,
    quantiles: float | Sequence[float] = 0.5,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    smoothing: float = 0.0,
) -> Tensor:
    """Computes the pinball loss, whose minimizer ``input`` is a quantile of ``target``.

    The loss is tau (target - input), or (1 - tau) (input - target) where ``input`` is larger. At the kink the gradient
    of ``input`` is -tau.

    Args:
        input: The predicted quantiles.
        target: The observed values.
        quantiles: One tau between 0 and 1, or several for the last dimension of ``input``.
        weight: A weight for each target; the mean is weighted.
        reduction: "mean", "sum" or "none".
        smoothing: The half-width of the window around the kink in which the loss is a parabola.

    Shape:
        ``target`` and ``weight`` have the shape of ``input``, without the last dimension if there are several
        quantiles.

    Returns:
        A scalar, or a tensor of the shape of ``input`` without a reduction.

    Example:
        >>> F.pinball_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([2.0]), (0.1, 0.9), reduction="none")
        tensor([[0.1000, 0.0000]])
    """
    own = dict(weight=weight, reduction=reduction, smoothing=smoothing)
    if has_proxy(input, target, weight):
        return show(pinball_loss, input, target, quantiles, **own)
    for name, x in (("input", input), ("target", target)):
        if not isinstance(x, Tensor):
            raise TypeError(f"pinball_loss(): argument '{name}' must be Tensor, not {type(x).__name__}")
    several = not isinstance(quantiles, _NUMBER)
    taus = checked_quantiles(quantiles, smoothing)
    enum = reduction_enum(None, None, reduction)
    if input.shape != ((*target.shape, len(taus)) if several else target.shape):
        raise ValueError(
            f"Input size ({input.size()}) must be the same as target size ({target.size()})"
            + (f", followed by a dimension of size {len(taus)} for the quantiles" if several else "")
        )
    if weight is not None and weight.shape != target.shape:
        raise ValueError(f"Weight size ({weight.size()}) must be the same as target size ({target.size()})")
    y, w = (target, weight) if not several else (target.unsqueeze(-1), None if weight is None else weight.unsqueeze(-1))
    if native_together(input, y, w) or autocasting(input, y, w):
        return _loss(input, y, w, taus, enum, smoothing)
    if watched():
        return show(pinball_loss, input, target, quantiles, **own)
    return _composed_of_plain_operations(input, y, w, taus, enum, smoothing)
