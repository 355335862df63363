"""The softmax. The formulas and their derivation: csrc/formulas/softmax.h.

y_k = e^x_k / sum_j e^x_j,    dy_k/dx_i = y_k ([i = k] - y_i)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softmax as builtin

from ..autograd.fake import register_fake
from ._along import AlongDimension, public

register_fake("torchnotes::softmax", lambda x, dim: x.new_empty(x.shape))
register_fake("torchnotes::softmax_backward", lambda g, y, dim: y.new_empty(y.shape))


class SoftmaxBackward(AlongDimension):
    """B(g, y) = y (g - g.y), linear and symmetric in g."""

    operator = "softmax_backward"

    @staticmethod
    def by_torch(g: Tensor, y: Tensor, dim: int) -> Tensor:
        return y * (g - _dot(g, y, dim))

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:
        g, y = ctx.saved_tensors
        d_g = SoftmaxBackward.apply(v, y, ctx.dim) if ctx.needs_input_grad[0] else None
        d_y = v * (g - _dot(g, y, ctx.dim)) - g * _dot(v, y, ctx.dim) if ctx.needs_input_grad[1] else None
        return d_g, d_y, None

    @staticmethod
    def tangent(ctx: Any, g_t: Tensor, y_t: Tensor, _: None) -> Tensor:
        g, y = ctx.saved_tensors
        along_y = y_t * (g - _dot(g, y, ctx.dim)) - y * _dot(g, y_t, ctx.dim)
        return SoftmaxBackward.apply(g_t, y, ctx.dim) + along_y


class Softmax(AlongDimension):
    operator = "softmax"
    keeps_output = True

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        (y,) = ctx.saved_tensors
        return SoftmaxBackward.apply(g, y, ctx.dim), None

    @staticmethod
    def tangent(ctx: Any, x_t: Tensor, _: None) -> Tensor:
        (y,) = ctx.saved_tensors
        return SoftmaxBackward.apply(x_t, y, ctx.dim)


def _dot(a: Tensor, b: Tensor, dim: int) -> Tensor:
    return (a * b).sum(dim, keepdim=True)


_softmax = public(Softmax, SoftmaxBackward, builtin)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """Divides e^x by its sum along a dimension, like :func:`torch.nn.functional.softmax`.

    Saves only its output for the backward pass, as torch does.

    Args:
        input: The tensor x, of any shape.
        dim: The dimension along which the results sum to 1.
        dtype: The dtype to convert ``input`` to first.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.softmax(torch.tensor([[0.0, 1.0]]), dim=1)
        tensor([[0.2689, 0.7311]])
    """
    return _softmax(input, dim, _stacklevel, dtype)
