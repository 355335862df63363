"""The cross-entropy of a binary target and a probability given by its logit. The formulas and their derivation:
csrc/formulas/binary_cross_entropy_with_logits.h.

l = (1 - y) x + L log(1 + e^-x),    L = 1 + (p - 1) y
dl/dx = (1 - y) - L s(-x),    dl/dy = p log(1 + e^-x) - log(1 + e^x),    dl/dp = y log(1 + e^-x)
d2l/dx2 = L s (1 - s),    d2l/dxdy = -s - p s(-x),    d2l/dxdp = -y s(-x)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, sigmoid
from torch.nn.functional import binary_cross_entropy_with_logits as builtin
from torch.nn.functional import logsigmoid

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
)

register_fake(
    "torchnotes::binary_cross_entropy_with_logits",
    lambda x, y, w, p, reduction, smoothing, ignored: fake_loss(x, reduction),
)
register_fake(
    "torchnotes::binary_cross_entropy_with_logits_backward",
    lambda g, x, y, w, p, scale, reduction, smoothing, ignored: torch.empty_like(x),
)
_forward = kernel("binary_cross_entropy_with_logits")
_backward = kernel("binary_cross_entropy_with_logits_backward")


def _weighted(x: Tensor, w: Tensor | None) -> Tensor:
    return x if w is None else x * w


class LogitsLossBackward(Elementwise):
    """g w ((1 - y) - L s(-x)), with g in float64; w and p are tensors, or None for 1"""

    @staticmethod
    def forward(g: Tensor, x: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
        gradient, scale, reduction = gradient_of_each(g, x)
        return _backward(gradient, x, y, w, p, scale, reduction, 0.0, None)

    @staticmethod
    def by_torch(g: Tensor, x: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
        L = 1 if p is None else 1 + (p - 1) * y
        return _weighted(g * ((1 - y) - L * sigmoid(-x)), w).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @classmethod
    def backward(cls, ctx: Any, v: Tensor) -> tuple:
        g, x, y, w, p = ctx.saved_tensors
        wants_g, _, _, wants_w, _ = ctx.needs_input_grad
        d_g = cls.apply(v.double(), x, y, w, p) if wants_g else None
        d_w = cls.apply(v * g, x, y, None, p) if wants_w else None
        d_x, d_y, d_p = (None if s is None else _weighted(v * g * s, w) for s in cls.slopes(x, y, p))
        return d_g, d_x, d_y, d_w, d_p

    @classmethod
    def tangent(cls, ctx: Any, g_t: Tensor, x_t: Tensor, y_t: Tensor, w_t: Tensor | None, p_t: Tensor | None) -> Tensor:
        g, x, y, w, p = ctx.saved_tensors
        by_x, by_y, by_p = cls.slopes(x, y, p)
        along = by_x * x_t + by_y * y_t
        if p_t is not None:
            along = along + by_p * p_t
        result = cls.apply(g_t, x, y, w, p) + _weighted(g * along, w).to(x.dtype)
        return result if w_t is None else result + cls.apply(g * w_t, x, y, None, p)

    @staticmethod
    def slopes(x: Tensor, y: Tensor, p: Tensor | None) -> tuple:
        """The second derivatives d2l/dx2, d2l/dxdy and d2l/dxdp."""
        s, t = sigmoid(x), sigmoid(-x)
        if p is None:
            return s * t, -torch.ones_like(x), None
        return (1 + (p - 1) * y) * (s * t), -(s + p * t), -y * t


class LogitsLoss(Elementwise):
    """w ((1 - y) x + L log(1 + e^-x)) in float64; w and p are tensors, or None for 1"""

    @staticmethod
    def forward(x: Tensor, y: Tensor, w: Tensor | None, p: Tensor | None) -> Tensor:
        return _forward(x, y, w, p, NONE, 0.0, None)[0].double()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @classmethod
    def backward(cls, ctx: Any, g: Tensor) -> tuple:
        x, y, w, p = ctx.saved_tensors
        wants_x, wants_y, wants_w, wants_p = ctx.needs_input_grad
        d_x = LogitsLossBackward.apply(g, x, y, w, p) if wants_x else None
        d_w = g * cls.apply(x, y, None, p) if wants_w else None
        d_y = d_p = None
        if wants_y or wants_p:
            d_y, d_p = (None if s is None else _weighted(g * s, w) for s in cls.slopes(x, y, p))
        return d_x, d_y, d_w, d_p

    @classmethod
    def tangent(cls, ctx: Any, x_t: Tensor, y_t: Tensor, w_t: Tensor | None, p_t: Tensor | None) -> Tensor:
        x, y, w, p = ctx.saved_tensors
        by_y, by_p = cls.slopes(x, y, p)
        along = by_y * y_t if p_t is None else by_y * y_t + by_p * p_t
        result = (LogitsLossBackward.apply(x_t.double(), x, y, w, p) + _weighted(along, w)).double()
        return result if w_t is None else result + w_t * cls.apply(x, y, None, p)

    @staticmethod
    def slopes(x: Tensor, y: Tensor, p: Tensor | None) -> tuple:
        """dl/dy = p log(1 + e^-x) - log(1 + e^x) and dl/dp."""
        if p is None:
            return -x, None
        softplus = -logsigmoid(x)
        return p * softplus + logsigmoid(-x), y * softplus


def _composed(
    of_elements: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    p: Tensor | None,
    reduction: int,
    smoothing: float,
    ignored: float | None,
) -> Tensor:
    """The reduced loss, given a function for the loss of the elements."""
    if ignored is None:
        return reduced(of_elements(x, _smooth(y, smoothing), w, p), reduction)
    counts = y != ignored
    loss = of_elements(x.where(counts, 0), _smooth(y.where(counts, 0), smoothing), w, p)
    return reduced(loss.where(counts, 0), reduction, counts.sum())


def _smooth(y: Tensor, smoothing: float) -> Tensor:
    return y * (1 - smoothing) + smoothing / 2 if smoothing else y


@rounding_once
def _composed_of_kernels(*args: Any) -> Tensor:
    return _composed(lambda x, y, w, p: LogitsLoss.apply(x, y, *_expanded(x, w, p)), *args)


def _composed_of_the_builtin(*args: Any) -> Tensor:
    return _composed(lambda x, y, w, p: _weighted(builtin(x, y, pos_weight=p, reduction="none"), w), *args)


def _expanded(x: Tensor, *weights: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if w is None else w.expand_as(x) for w in weights)


@rounding_once
def _composed_backward(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    p: Tensor | None,
    scale: Tensor,
    reduction: int,
    smoothing: float,
    ignored: float | None,
) -> Tensor:
    g = gradient_of_elements(g, scale, reduction, x)
    w, p = _expanded(x, w, p)
    if ignored is None:
        return LogitsLossBackward.apply(g, x, _smooth(y, smoothing), w, p)
    counts = y != ignored
    x, y = x.where(counts, 0), y.where(counts, 0)
    return LogitsLossBackward.apply(g.where(counts, 0), x, _smooth(y, smoothing), w, p)


_loss: Callable[..., Tensor] = differentiable(
    "BCEWithLogitsLoss",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward",
    respecting_autocast(_composed_of_kernels, lambda: _loss),
    _composed_backward,
    respects_autocast=True,
)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
) -> Tensor:
    """Computes the binary cross-entropy of logits.

    The loss is that of :func:`torch.nn.functional.binary_cross_entropy_with_logits`, with two more options.

    Args:
        input: The logits.
        target: Probabilities between 0 and 1, in the shape of ``input``.
        weight: A weight for each element, broadcast to the shape of ``input``.
        size_average, reduce: Deprecated by torch in favor of ``reduction``.
        reduction: "mean", "sum" or "none".
        pos_weight: A weight for the positive term, broadcast to the shape of ``input``.
        label_smoothing: Moves targets t towards 1/2, to t (1 - label_smoothing) + label_smoothing / 2.
        ignore_index: A target value whose elements have no loss or gradient, and do not count in the mean.

    Returns:
        A scalar, or a tensor of the shape of ``input`` without a reduction.

    Example:
        >>> F.binary_cross_entropy_with_logits(torch.tensor([0.0, 3.0]), torch.tensor([1.0, -1.0]), ignore_index=-1)
        tensor(0.6931)
    """
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    tensors = (input, target, weight, pos_weight)
    if native_together(*tensors) or autocasting(*tensors):
        loss = _loss
    elif watched():
        of_torch = input, target, weight, size_average, reduce, reduction, pos_weight
        own = dict(label_smoothing=label_smoothing, ignore_index=ignore_index)
        return show(binary_cross_entropy_with_logits, *of_torch, **own)
    elif label_smoothing == 0 and ignore_index is None:
        return builtin(input, target, weight, size_average, reduce, reduction, pos_weight)
    else:
        loss = _composed_of_the_builtin
    enum = reduction_enum(size_average, reduce, reduction)
    if target.shape != input.shape:
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    return loss(input, target, weight, pos_weight, enum, label_smoothing, ignore_index)
