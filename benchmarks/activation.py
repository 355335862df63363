"""The benchmarks of an activation, an elementwise function that saves one tensor for the backward pass."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .accuracy import Accuracy, Function
from .timing import OURS, Case, Contender, Problem

SIZES = (64, 10_000, 100_000, 1_000_000, 4_000_000, 10_000_000, 32_000_000)
FORWARD = 2  # number of tensors moved: reads x, writes y
BACKWARD = 3  # reads the gradient of y and the saved tensor, writes the gradient of x


def activation(ours: Function, builtin: Function) -> tuple[Case | Accuracy, ...]:
    alone = {OURS: ours, "eager": builtin, "compile": compiled(builtin)}
    inside = {OURS: compiled(chain(ours)), "eager": chain(builtin), "compile": compiled(chain(builtin))}
    return (
        Case("forward with grad", (64,), partial(forward, alone, builtin, requires_grad=True)),
        Case("forward+backward", SIZES, partial(forward_backward, alone, builtin)),
        Case("forward", (10_000_000,), partial(forward, alone, builtin), always_warm=True),
        Case("compiled chain forward", (4_000_000,), partial(forward, inside, chain(builtin))),
        Case("compiled chain forward+backward", (4_000_000,), partial(forward_backward, inside, chain(builtin))),
        Accuracy({OURS: ours, "eager": builtin}, builtin),
    )


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compiles for one shape, and raises instead of silently falling back to eager mode."""
    return torch.compile(function, dynamic=False, fullgraph=True)


def chain(function: Function) -> Function:
    """The function between operations that a compiler can fuse it with."""
    return lambda x: function(x * 2 + 1) * 3


def forward(
    functions: dict[str, Function],
    reference: Function,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    requires_grad: bool = False,
) -> Problem:
    x = torch.randn(size, dtype=dtype, device=device, requires_grad=requires_grad)

    def call(function: Function, x: Tensor) -> Contender:
        return lambda: (function(x),)

    contenders = {name: call(function, x) for name, function in functions.items()}
    return Problem(contenders, call(reference, x.double()), FORWARD * x.nbytes)


def forward_backward(
    functions: dict[str, Function], reference: Function, size: int, dtype: torch.dtype, device: torch.device
) -> Problem:
    x = torch.randn(size, dtype=dtype, device=device, requires_grad=True)
    g = torch.randn_like(x)

    def call(function: Function, x: Tensor, g: Tensor) -> Contender:
        def step() -> tuple[Tensor, Tensor]:
            y = function(x)
            y.backward(g)
            gradient, x.grad = x.grad, None
            assert gradient is not None
            return y, gradient

        return step

    contenders = {name: call(function, x, g) for name, function in functions.items()}
    in_double = call(reference, x.detach().double().requires_grad_(), g.double())
    return Problem(contenders, in_double, (FORWARD + BACKWARD) * x.nbytes)
