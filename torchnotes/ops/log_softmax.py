"""The logarithm of the softmax. The formulas and their derivation: csrc/formulas/log_softmax.h.

y_k = x_k - ln sum_j e^x_j,    dy_k/dx_i = [i = k] - e^y_i
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax as builtin

from ..autograd.fake import register_fake
from ._along import AlongDimension, public

register_fake("torchnotes::log_softmax", lambda x, dim: x.new_empty(x.shape))
register_fake("torchnotes::log_softmax_backward", lambda g, y, dim: y.new_empty(y.shape))


class LogSoftmaxBackward(AlongDimension):
    """B(g, y) = g - e^y sum g, linear in g."""

    operator = "log_softmax_backward"

    @staticmethod
    def by_torch(g: Tensor, y: Tensor, dim: int) -> Tensor:
        return g - y.exp() * g.sum(dim, keepdim=True)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:
        g, y = ctx.saved_tensors
        p = y.exp()
        d_g = v - (p * v).sum(ctx.dim, keepdim=True)
        d_y = -g.sum(ctx.dim, keepdim=True) * p * v if ctx.needs_input_grad[1] else None
        return d_g, d_y, None

    @staticmethod
    def tangent(ctx: Any, g_t: Tensor, y_t: Tensor, _: None) -> Tensor:
        g, y = ctx.saved_tensors
        return LogSoftmaxBackward.apply(g_t, y, ctx.dim) - g.sum(ctx.dim, keepdim=True) * y.exp() * y_t


class LogSoftmax(AlongDimension):
    operator = "log_softmax"
    keeps_output = True

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        (y,) = ctx.saved_tensors
        return LogSoftmaxBackward.apply(g, y, ctx.dim), None

    @staticmethod
    def tangent(ctx: Any, x_t: Tensor, _: None) -> Tensor:
        (y,) = ctx.saved_tensors
        return x_t - (y.exp() * x_t).sum(ctx.dim, keepdim=True)


_log_softmax = public(LogSoftmax, LogSoftmaxBackward, builtin)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """Computes the logarithm of the softmax along a dimension, like :func:`torch.nn.functional.log_softmax`.

    Saves only its output for the backward pass, as torch does.

    Args:
        input: A tensor of any shape.
        dim: The dimension along which the probabilities sum to 1.
        dtype: The dtype to convert ``input`` to first.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.log_softmax(torch.tensor([[0.0, 1.0]]), dim=1)
        tensor([[-1.3133, -0.3133]])
    """
    return _log_softmax(input, dim, _stacklevel, dtype)
