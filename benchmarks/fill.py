"""The benchmark of an initializer: filling a large weight in place."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from .timing import OURS, Case, Contender, Problem, suffix

Fill = Callable[[Tensor], Tensor]

COLUMNS = 5000


def fill(name: str, ours: Fill, builtin: Fill, size: int = 50_000_000) -> tuple[Case, ...]:
    functions = {OURS: ours, "eager": builtin}
    return tuple(
        Case(name + suffix(dtype), (size,), partial(filled, functions), dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )


def filled(functions: dict[str, Fill], size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    weight = torch.empty(size // COLUMNS, COLUMNS, dtype=dtype, device=device)

    def moments(results: Sequence[Tensor]) -> Tensor:
        numbers = results[0].flatten()[:1_000_000].double()
        return torch.stack((numbers.mean(), numbers.std().log(), numbers.pow(4).mean().log()))

    contenders: dict[str, Contender] = {name: partial(call, function, weight) for name, function in functions.items()}
    return Problem(contenders, contenders["eager"], weight.nbytes, 0.02, moments)


def call(function: Fill, weight: Tensor) -> tuple[Tensor]:
    return (function(weight),)
