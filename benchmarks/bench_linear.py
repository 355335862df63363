"""A dense layer with its activation, forward and backward, against torch's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu
from torch.nn.functional import linear as builtin

import torchnotes

from .activation import compiled
from .timing import OURS, Case, Contender, Problem, suffix

Layer = Callable[..., Tensor]  # called with x, weight and bias

AFTER = {None: lambda z: z, "leaky_relu": leaky_relu, "sigmoid": torch.sigmoid}
WIDE, LONG, SMALL = (256, 1024, 1024), (8192, 128, 128), (64, 64, 128)  # rows, inputs, outputs
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # matrix products sum in different orders


def layers(activation: str | None) -> dict[str, Layer]:
    def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return AFTER[activation](builtin(x, weight, bias))

    ours = partial(torchnotes.functional.linear, activation=activation)
    return {OURS: ours, "eager": eager, "compile": compiled(eager)}


def forward_backward(
    size: int, dtype: torch.dtype, device: torch.device, *, shape: tuple[int, int, int], activation: str | None
) -> Problem:
    rows, inputs, outputs = shape
    sizes = (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)
    scales = 1, inputs**-0.5, 1, 1
    everything = [scale * torch.randn(s, dtype=dtype, device=device) for s, scale in zip(sizes, scales, strict=True)]

    def call(layer: Layer, *tensors: Tensor) -> Contender:
        *operands, g = tensors
        operands = [x.detach().requires_grad_() for x in operands]

        def step() -> tuple[Tensor, ...]:
            y = layer(*operands)
            y.backward(g)
            gradients: list[Any] = [x.grad for x in operands]
            for x in operands:
                x.grad = None
            return y.detach(), *gradients

        return step

    functions = layers(activation)
    contenders = {name: call(layer, *everything) for name, layer in functions.items()}
    in_double = call(functions["eager"], *(x.double() for x in everything))
    # forward: x, W, b and y; backward: g, y and delta, then delta and W for dx, and delta and x for dW
    bytes_moved = dtype.itemsize * (4 * rows * inputs + 6 * rows * outputs + 3 * inputs * outputs)
    return Problem(contenders, in_double, bytes_moved, ALLOWED[dtype])


def case(shape: tuple[int, int, int], activation: str | None, dtype: torch.dtype = torch.float32) -> Case:
    rows, inputs, outputs = shape
    name = f"{activation or 'no activation'} {rows} x {inputs} -> {outputs}{suffix(dtype)}"
    return Case(name, (rows * outputs,), partial(forward_backward, shape=shape, activation=activation), dtype)


CASES = (
    *(case(WIDE, activation) for activation in ("leaky_relu", "sigmoid", None)),
    *(case(LONG, activation) for activation in ("leaky_relu", "sigmoid", None)),
    *(case(SMALL, activation) for activation in ("leaky_relu", "sigmoid", None)),
    *(case(shape, "leaky_relu", torch.bfloat16) for shape in (WIDE, LONG, SMALL)),
)
