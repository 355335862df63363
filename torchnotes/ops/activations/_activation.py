"""Activations y = f(x) whose slope f'(x) = p(r) is a function of one saved tensor r: the output if that suffices.

    Activation   y = f(x)                x to y        d/dx = p(r)
    Slope        B(g, r) = g p(r)        backward      d/dg = p(r),   d/dr = g p'(r)
    Curvature    C(v, g, r) = v g p'(r)  its own       d/dv = g p'(r), d/dg = v p'(r), d/dr = v g p''

p'' (`Curvature.third`) is written in torch's operations, which torch differentiates, so every order is right. For
sigmoid and tanh p is a parabola with p'' = -2 and r = y. For relu and leaky_relu p is a step and p' = 0; like torch's,
those derivatives are zeros instead of missing. Numbers after the tensors (a negative slope) have no derivative.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...autograd.fake import register_fake
from ...autograd.function import Elementwise, differentiable, kernel


class _Native(Elementwise):
    """Calls the native operator `operator` and saves its tensors and the numbers after them."""

    operator: ClassVar[str]
    _kernel: ClassVar[Callable[..., Tensor]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "operator" in vars(cls):
            cls._kernel = kernel(cls.operator)
        if "by_torch" in vars(cls) and cls.by_torch is not None:
            register_fake(f"torchnotes::{cls.operator}", cls.by_torch)

    @classmethod
    def forward(cls, *args: Any) -> Tensor:
        return cls._kernel(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
        ctx.numbers = tuple(x for x in inputs if not isinstance(x, Tensor))


class Curvature(_Native):
    """C(v, g, r) = v g p'(r), linear in v and in g."""

    @staticmethod
    def third(r: Tensor, *numbers: Any) -> Any:
        """p''(r)"""
        return -2

    @classmethod
    def backward(cls, ctx: Any, w: Tensor) -> tuple:
        v, g, r = ctx.saved_tensors
        n = ctx.numbers
        return cls.apply(w, g, r, *n), cls.apply(v, w, r, *n), w * v * g * cls.third(r, *n), *(None,) * len(n)

    @classmethod
    def tangent(cls, ctx: Any, v_t: Tensor, g_t: Tensor, r_t: Tensor, *numbers_t: None) -> Tensor:
        v, g, r = ctx.saved_tensors
        n = ctx.numbers
        return cls.apply(v_t, g, r, *n) + cls.apply(v, g_t, r, *n) + v * g * cls.third(r, *n) * r_t


class Slope(_Native):
    """B(g, r) = g p(r): the backward of an activation and, with a tangent for g, its forward-mode rule."""

    curvature: ClassVar[type[Curvature] | None] = None  # None: p' = 0

    @classmethod
    def setup_context(cls, ctx: Any, inputs: tuple, output: Tensor) -> None:
        g, r, *ctx.numbers = inputs
        ctx.save_for_backward(g if cls.curvature else None, r)

    @classmethod
    def curved(cls, v: Tensor, g: Tensor, r: Tensor, *numbers: float) -> Tensor:
        """v g p'(r)"""
        return cls.curvature.apply(v, g, r, *numbers) if cls.curvature else torch.zeros_like(v)

    @classmethod
    def backward(cls, ctx: Any, v: Tensor) -> tuple:
        g, r = ctx.saved_tensors
        d_g = cls.apply(v, r, *ctx.numbers) if ctx.needs_input_grad[0] else None
        d_r = cls.curved(v, g, r, *ctx.numbers) if ctx.needs_input_grad[1] else None
        return d_g, d_r, *(None,) * len(ctx.numbers)

    @classmethod
    def tangent(cls, ctx: Any, g_t: Tensor, r_t: Tensor, *numbers_t: None) -> Tensor:
        g, r = ctx.saved_tensors
        return cls.apply(g_t, r, *ctx.numbers) + cls.curved(r_t, g, r, *ctx.numbers)


class Activation(_Native):
    """y = f(x), saving one tensor.

    Its `apply` is C++ (csrc/python/node.cpp), which calls Python under transforms and for the second derivative.
    """

    slope: ClassVar[type[Slope]]
    keeps_input: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "operator" in vars(cls):
            cls.apply = _call(cls, cls.operator, cls._under_transform)  # type: ignore[method-assign] # C++ for Python

    @classmethod
    def setup_context(cls, ctx: Any, inputs: tuple, y: Tensor) -> None:
        x, *numbers = inputs
        ctx.save_for_backward(x if cls.keeps_input else y)
        ctx.numbers = numbers

    @classmethod
    def backward(cls, ctx: Any, g: Tensor) -> tuple:
        (r,) = ctx.saved_tensors
        return cls.slope.apply(g, r, *ctx.numbers), *(None,) * len(ctx.numbers)

    @classmethod
    def tangent(cls, ctx: Any, x_t: Tensor, *numbers_t: None) -> Tensor:
        (r,) = ctx.saved_tensors
        return cls.slope.apply(x_t, r, *ctx.numbers)


def in_place(function: type[Activation]) -> Callable[..., Tensor]:
    """x <- f(x), by the operator whose name ends with an underscore."""

    def under_transform(x: Tensor, *numbers: float) -> Tensor:
        return x.copy_(function.apply(x.clone() if function.keeps_input else x, *numbers))

    return _call(function, function.operator + "_", under_transform)


def _call(cls: type[Activation], operator: str, under_transform: Callable[..., Tensor]) -> Callable[..., Tensor]:
    reference = "input" if cls.keeps_input else "output"
    return differentiable(
        cls.__name__, operator, cls.slope.operator, under_transform, cls.slope.apply, reference=reference
    )
