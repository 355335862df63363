"""A linear layer with its activation. The formulas and their derivation: csrc/formulas/linear.h.

z = x W^T + 1 b^T,   y = f(z),   delta = g f'(z)
dL/dx = delta W,    dL/dW = delta^T x,    dL/db = delta^T 1

Inside torch.compile, under autocast, and for tensors that our kernels do not support, it is composed of torch's linear
and our activation.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn.functional import linear as builtin
from torch.utils.flop_counter import register_flop_formula

from .._native import fits_layer
from ..autograd.fake import check_same_device, register_fake
from ..autograd.function import Function, autocasts, batched, differentiable, kernel, show, watched
from .activations import BY_NUMBER, Activation, checked_activation

_forward, _backward = kernel("linear"), kernel("linear_backward")


def _fake(x: Tensor, W: Tensor, b: Any, activation: int, a: float, widens: bool = False) -> Tensor:
    return _wide(x @ W.t()) if widens else x @ W.t()


def _plain_backward(
    g: Tensor, x: Any, W: Any, y: Any, activation: int, a: float, output_mask: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    of_x, of_W, of_b = output_mask
    return _product(g, W) if of_x else None, _product(g.t(), x) if of_W else None, g.sum(0) if of_b else None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _product(delta: Tensor, factor: Tensor) -> Tensor:
    return (delta @ factor.to(delta.dtype)).to(factor.dtype)


register_fake("torchnotes::linear", _fake)
register_fake("torchnotes::linear_backward", _plain_backward)


@register_flop_formula(torch.ops.torchnotes.linear)
def _flops(x: Sequence[int], W: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * W[0]


@register_flop_formula(torch.ops.torchnotes.linear_backward)
def _flops_backward(g: Sequence[int], x: Any, W: Any, *rest: Any, **_: Any) -> int:
    of_x, of_W, _ = rest[3]
    return 2 * g[0] * g[1] * ((W[1] if of_x else 0) + (x[1] if of_W else 0))


def _added(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms, where None means 0."""
    there = [term for term in terms if term is not None]
    return sum(there[1:], there[0]) if there else None


def _times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a @ b


def _t(a: Tensor | None) -> Tensor | None:
    return None if a is None else a.mT


def _delta(g: Any, y: Tensor, activation: int, a: float) -> Any:
    """g p(y)"""
    backward: Any = BY_NUMBER[activation].backward
    return None if g is None else backward(g, y, a)


def _along_y(v: Tensor | None, g: Tensor, y: Tensor, activation: int) -> Tensor | None:
    """v g p'(y)"""
    curved = BY_NUMBER[activation].curved
    return None if v is None or curved is None else curved(v, g, y)


class LinearBackward(Function):
    """Those of (dL/dx, dL/dW, dL/db) that are needed, as a function of (dL/dy, x, W, y, ...)"""

    @staticmethod
    def forward(
        g: Tensor,
        x: Tensor | None,
        W: Tensor | None,
        y: Tensor | None,
        activation: int,
        a: float,
        output_mask: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        return _backward(g, x, W, y, activation, a, output_mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.activation, ctx.a, ctx.output_mask = inputs[4:]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, v_x: Any, v_W: Any, v_b: Any) -> tuple:
        g, x, W, y = ctx.saved_tensors
        of_g, of_x, of_W, of_y, *_ = ctx.needs_input_grad
        V = None
        if of_g or of_y:
            V = _added(_times(v_x, _t(W)), _times(x, _t(v_W)), None if v_b is None else v_b.expand(g.shape))
        delta = _delta(g, y, ctx.activation, ctx.a) if of_x or of_W else None
        return (
            _delta(V, y, ctx.activation, ctx.a) if of_g else None,
            _times(delta, v_W) if of_x else None,
            _times(_t(delta), v_x) if of_W else None,
            _along_y(V, g, y, ctx.activation) if of_y else None,
            *(None,) * 3,
        )

    @staticmethod
    def tangent(ctx: Any, g_t: Any, x_t: Any, W_t: Any, y_t: Any, *_: None) -> tuple:
        g, x, W, y = ctx.saved_tensors
        of_x, of_W, of_b = ctx.output_mask
        delta = _delta(g, y, ctx.activation, ctx.a)
        g_t = torch.zeros_like(g) if g_t is None else g_t  # torch expects a tangent for every result
        delta_t: Any = _added(_delta(g_t, y, ctx.activation, ctx.a), _along_y(y_t, g, y, ctx.activation))
        return (
            _added(_times(delta_t, W), _times(delta, W_t)) if of_x else None,
            _added(_times(_t(delta_t), x), _times(_t(delta), x_t)) if of_W else None,
            delta_t.sum(0) if of_b else None,
        )

    @staticmethod
    def by_torch(g: Tensor, x: Any, W: Any, y: Any, activation: int, a: float, output_mask: Sequence[bool]) -> tuple:
        of_x, of_W, of_b = output_mask
        delta = _delta(g, y, activation, a)
        return delta @ W if of_x else None, _t(delta) @ x if of_W else None, delta.sum(-2) if of_b else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        _, x, W, _, *options = _batch_first(in_dims, args)
        g, _, _, y, *_ = batched(info, in_dims, args)
        gradients = LinearBackward.by_torch(g, x, W, y, *options)
        return gradients, tuple(None if one is None else 0 for one in gradients)


class Linear(Function):
    """y as a function of (x, W, b, ...)"""

    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor | None, activation: int, a: float) -> Tensor:
        return _forward(x, W, b, activation, a)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, y: Tensor) -> None:
        x, W, _, ctx.activation, ctx.a = inputs
        ctx.save_for_backward(x, W, None if ctx.activation == _IDENTITY else y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        gradients = LinearBackward.apply(g, *ctx.saved_tensors, ctx.activation, ctx.a, ctx.needs_input_grad[:3])
        return *gradients, None, None

    @staticmethod
    def tangent(ctx: Any, x_t: Any, W_t: Any, b_t: Any, *_: None) -> Tensor | None:
        x, W, y = ctx.saved_tensors
        z_t = _added(_times(x_t, _t(W)), _times(x, _t(W_t)))
        z_t = _added(z_t, b_t if z_t is not None or b_t is None else b_t.expand(x.shape[0], W.shape[0]))
        return _delta(z_t, y, ctx.activation, ctx.a)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        x, W, b, activation, a = _batch_first(in_dims, args)
        if in_dims[1] is in_dims[2] is None:  # only the input is batched: more rows
            return Linear.apply(x.flatten(0, 1), W, b, activation, a).unflatten(0, x.shape[:2]), 0
        z = x @ _t(W)
        return BY_NUMBER[activation].ours(z if b is None else z + b.unsqueeze(-2), a), 0


def _batch_first(in_dims: tuple, args: tuple) -> list:
    """Moves the batch dimension of batched arguments to the front."""
    return [x.movedim(dim, 0) if isinstance(dim, int) else x for x, dim in zip(args, in_dims, strict=True)]


def _composed(x: Tensor, W: Tensor, b: Tensor | None, activation: int, a: float) -> Tensor:
    check_same_device(x, W, b)  # torch's linear returns uninitialized memory if one is on the meta device
    return BY_NUMBER[activation].ours(builtin(x, W, b), a)


def _fallback(x: Tensor, *rest: Any) -> Tensor:
    return (_composed if autocasts(x) else Linear.apply)(x, *rest)


_IDENTITY = checked_activation(None)
_call = functools.partial(
    differentiable,
    *("Linear", "linear", "linear_backward"),
    respects_autocast=True,
    only_for={"input": 1, "weight": 0},
)
_activated = _call(_fallback, LinearBackward.apply)
_sums = _call(_fallback, LinearBackward.apply, output=None)


def _plain_wide(x: Tensor, W: Tensor, b: Tensor | None, *_: Any) -> Tensor:
    return builtin(_wide(x), _wide(W), None if b is None else _wide(b))


_wide_sums = _call(_plain_wide, _plain_backward, output=None)


def wide_linear(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    """x W^T + b, in float32 for 16-bit operands, which must be two-dimensional and fit (`fits_layer`)."""
    return _wide_sums(x, W, b, _IDENTITY, 0.0, True)


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    out: Tensor | None = None,
) -> Tensor:
    """Computes f(x W^T + b), :func:`torch.nn.functional.linear` followed by an activation f.

    Saves the input and the weight for the backward pass, as far as their gradients need them. With an activation it
    also saves the output, which must not be overwritten then. Instead of ``y += r`` write ``y = y + r``.

    Args:
        input: The tensor x.
        weight: The matrix W.
        bias: The vector b.
        activation: The name of an elementwise activation, such as "relu", or None.
        negative_slope: The slope of "leaky_relu".
        out: A tensor to write the result to; not differentiable.

    Shape:
        ``input`` is ``(*, in_features)``, ``weight`` ``(out_features, in_features)``, ``bias`` ``(out_features)``.

    Returns:
        A tensor of shape ``(*, out_features)``.

    Example:
        >>> F.linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), activation="relu")
        tensor([[3., 0.]])
    """
    number = checked_activation(activation)
    # If the slope is negative, the output does not determine z.
    plainly = out is not None or negative_slope < 0 or not BY_NUMBER[number].fused
    if is_compiling() or not fits_layer(input, weight, bias) or plainly:
        if watched():
            return show(linear, input, weight, bias, activation=activation, negative_slope=negative_slope, out=out)
        if out is not None:
            z = builtin(input, weight, bias, out=out)  # type: ignore[call-arg] # missing in its stub
            return z if activation is None else z.copy_(BY_NUMBER[number].ours(z, negative_slope))
        return _composed(input, weight, bias, number, negative_slope)
    layer = _sums if number == _IDENTITY else _activated
    if input.dim() == 2:
        return layer(input, weight, bias, number, negative_slope)
    *leading, features = input.shape
    rows = input.reshape(math.prod(leading), features)
    return layer(rows, weight, bias, number, negative_slope).view(*leading, weight.shape[0])
