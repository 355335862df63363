"""The benchmarks of initializers: filling a large weight in place."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from torchnotes import init

from .timing import OURS, Case, Contender, Problem, suffix

COLUMNS = 5000


def fill(*names: tuple[str, str], size: int = 50_000_000) -> tuple[Case, ...]:
    """Our names, and torch's."""
    return tuple(
        Case(ours + suffix(dtype), (size,), partial(filled, ours, theirs), dtype)
        for ours, theirs in names
        for dtype in (torch.float32, torch.bfloat16)
    )


def filled(ours: str, theirs: str, size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    weight = torch.empty(size // COLUMNS, COLUMNS, dtype=dtype, device=device)

    def moments(results: Sequence[Tensor]) -> Tensor:
        numbers = results[0].flatten()[:1_000_000].double()
        return torch.stack((numbers.mean(), numbers.std().log(), numbers.pow(4).mean().log()))

    functions = {OURS: getattr(init, ours), "eager": getattr(torch.nn.init, theirs)}

    def call(function: Callable[[Tensor], Tensor]) -> Contender:
        return lambda: (function(weight),)

    contenders = {name: call(function) for name, function in functions.items()}
    return Problem(contenders, contenders["eager"], weight.nbytes, 0.02, moments)


BENCHMARKS = {
    "normal": partial(fill, ("normal_", "normal_"), ("he_normal_", "kaiming_normal_")),
    "trunc_normal": partial(fill, ("trunc_normal_", "trunc_normal_"), size=10_000_000),
    "uniform": partial(fill, ("uniform_", "uniform_"), ("glorot_uniform_", "xavier_uniform_")),
}
