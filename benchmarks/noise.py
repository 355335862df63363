"""The benchmark of an operation that multiplies by random numbers: forward, and backward with the same numbers."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from torchnotes import functional as F
from torchnotes.testing.operations import OPERATIONS

from .activation import BACKWARD, FORWARD
from .timing import Case, Problem, against, differentiated, suffix

Noise = Callable[[Tensor], Tensor]

SIGMA = 0.5


def noise(name: str, ours: Noise, eager: Noise, parameter: str) -> tuple[Case, ...]:
    setup, case = partial(forward_backward, against(ours, eager)), f"forward+backward, {parameter}"
    return (
        Case(case, tuple(n for (n,) in OPERATIONS[name].benchmarked), setup),
        Case(case + suffix(torch.bfloat16), (4096, 4_000_000), setup, torch.bfloat16),
    )


def forward_backward(functions: dict[str, Noise], size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    x, g = (1 + torch.rand(size, dtype=dtype, device=device) for _ in range(2))
    x.requires_grad_()

    def moments(results: Sequence[Tensor]) -> Tensor:
        """Mean and standard deviation of the factors, and whether forward and backward use the same ones."""
        forward, backward = (y.double() / t.detach() for y, t in zip(results, (x, g), strict=True))
        return torch.stack((forward.mean(), forward.std(), (forward - backward).abs().max()))

    contenders = {name: differentiated(function, (x,), g) for name, function in functions.items()}
    return Problem(contenders, contenders["eager"], (FORWARD + BACKWARD - 1) * x.nbytes, 0.1, moments)


def composed(x: Tensor) -> Tensor:
    """Gaussian dropout in torch's operations, because torch has no function for it."""
    return x * (1 + SIGMA * torch.randn_like(x))


BENCHMARKS = {
    "dropout": partial(noise, "dropout", F.dropout, torch.nn.functional.dropout, "p = 0.5"),
    "gaussian_dropout": partial(
        noise, "gaussian_dropout", partial(F.gaussian_dropout, sigma=SIGMA), composed, f"sigma = {SIGMA}"
    ),
}
