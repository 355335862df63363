"""A dense layer with its activation, forward and backward, against torch's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu
from torch.nn.functional import linear as builtin

from torchnotes.functional import linear
from torchnotes.testing.operations import OPERATIONS

from . import timing
from .timing import Case, Problem, against, suffix

Shape = tuple[int, ...]

AFTER: dict[str | None, Callable[[Tensor], Tensor]] = {
    "leaky_relu": leaky_relu,
    "sigmoid": torch.sigmoid,
    None: lambda z: z,
}
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # matrix products sum in different orders


def forward_backward(shape: Shape, activation: Any, size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return AFTER[activation](builtin(x, weight, bias))

    rows, inputs, outputs = shape
    sizes = (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)
    scales = 1, inputs**-0.5, 1, 1
    *operands, g = (scale * torch.randn(s, dtype=dtype, device=device) for s, scale in zip(sizes, scales, strict=True))
    leaves = [x.requires_grad_() for x in operands]
    # forward: x, W, b and y; backward: g, y and delta, then delta and W for dx, and delta and x for dW
    bytes_moved = dtype.itemsize * (4 * rows * inputs + 6 * rows * outputs + 3 * inputs * outputs)
    functions = against(partial(linear, activation=activation), eager)
    return timing.forward_backward(functions, leaves, g, bytes_moved, ALLOWED[dtype])


def case(shape: Shape, activation: Any, dtype: torch.dtype = torch.float32) -> Case:
    rows, inputs, outputs = shape
    name = f"{activation or 'no activation'} {rows} x {inputs} -> {outputs}{suffix(dtype)}"
    return Case(name, (rows * outputs,), partial(forward_backward, shape, activation), dtype)


def cases() -> tuple[Case, ...]:
    shapes = OPERATIONS["linear"].benchmarked  # rows, inputs, outputs
    return (
        *(case(shape, activation) for shape in shapes for activation in AFTER),
        *(case(shape, "leaky_relu", torch.bfloat16) for shape in shapes),
    )
