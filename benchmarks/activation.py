"""The benchmarks of an activation, an elementwise function that saves one tensor for the backward pass."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchnotes.testing.operations.activations import ACTIVATIONS

from . import timing
from .accuracy import Accuracy, Function
from .timing import OURS, Case, Contender, Problem, against, compiled

FORWARD = 2  # number of tensors moved: reads x, writes y
BACKWARD = 3  # reads the gradient of y and the saved tensor, writes the gradient of x


def activation(name: str) -> tuple[Case | Accuracy, ...]:
    operation = ACTIVATIONS[name]
    ours: Function = operation.function
    builtin: Any = getattr(torch, name, operation.builtin)  # torch.relu has less overhead than F.relu
    alone = against(ours, builtin)
    inside = against(compiled(chain(ours)), chain(builtin))
    sizes = tuple(n for (n,) in operation.benchmarked)
    return (
        Case("forward with grad", sizes[:1], partial(forward, alone, requires_grad=True)),
        Case("forward+backward", sizes, partial(forward_backward, alone)),
        Case("forward", (10_000_000,), partial(forward, alone), always_warm=True),
        Case("compiled chain forward", (4_000_000,), partial(forward, inside)),
        Case("compiled chain forward+backward", (4_000_000,), partial(forward_backward, inside)),
        Accuracy({OURS: ours, "eager": builtin}, builtin),
    )


def chain(function: Function) -> Function:
    """The function between operations that a compiler can fuse it with."""
    return lambda x: function(x * 2 + 1) * 3


def forward(
    functions: dict[str, Function], size: int, dtype: torch.dtype, device: torch.device, requires_grad: bool = False
) -> Problem:
    x = torch.randn(size, dtype=dtype, device=device, requires_grad=requires_grad)

    def call(function: Function, x: Tensor) -> Contender:
        return lambda: (function(x),)

    contenders = {name: call(function, x) for name, function in functions.items()}
    return Problem(contenders, call(functions["eager"], x.double()), FORWARD * x.nbytes)


def forward_backward(functions: dict[str, Function], size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    x = torch.randn(size, dtype=dtype, device=device, requires_grad=True)
    return timing.forward_backward(functions, (x,), torch.randn_like(x), (FORWARD + BACKWARD) * x.nbytes)


BENCHMARKS = {name: partial(activation, name) for name in ACTIVATIONS}
