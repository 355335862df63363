"""The benchmark of an operation that multiplies by random numbers: forward, and backward with the same numbers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from .activation import BACKWARD, FORWARD, compiled
from .timing import OURS, Case, Contender, Problem, suffix

Noise = Callable[[Tensor], Tensor]

SIZES = (4096, 100_000, 1_000_000, 4_000_000, 32_000_000)


def noise(ours: Noise, eager: Noise, parameter: str) -> tuple[Case, ...]:
    functions = {OURS: ours, "eager": eager, "compile": compiled(eager)}
    name = f"forward+backward, {parameter}"
    return (
        Case(name, SIZES, partial(forward_backward, functions)),
        Case(name + suffix(torch.bfloat16), (4096, 4_000_000), partial(forward_backward, functions), torch.bfloat16),
    )


def forward_backward(functions: Mapping[str, Noise], size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    x, g = (1 + torch.rand(size, dtype=dtype, device=device) for _ in range(2))
    x.requires_grad_()

    def call(function: Noise) -> Contender:
        def step() -> tuple[Tensor, Tensor]:
            y = function(x)
            y.backward(g)
            gradient, x.grad = x.grad, None
            assert gradient is not None
            return y, gradient

        return step

    def moments(results: Sequence[Tensor]) -> Tensor:
        """Mean and standard deviation of the factors, and whether forward and backward use the same ones."""
        forward, backward = (y.detach().double() / t.detach() for y, t in zip(results, (x, g), strict=True))
        return torch.stack((forward.mean(), forward.std(), (forward - backward).abs().max()))

    contenders: dict[str, Contender] = {name: call(function) for name, function in functions.items()}
    return Problem(contenders, contenders["eager"], (FORWARD + BACKWARD - 1) * x.nbytes, 0.1, moments)
