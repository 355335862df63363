"""gradient_norm against torch's norm of norms."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from torchnotes.optim import gradient_norm

from .step import NETWORK, SMALL, Shapes, total
from .timing import OURS, Case, Contender, Problem


def norms(shapes: Shapes, size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    grads = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]

    def call(norm: Callable[[list[Tensor]], Tensor], tensors: list[Tensor]) -> Contender:
        return lambda: (norm(tensors),)

    contenders = {OURS: call(gradient_norm, grads), "eager": call(torch.nn.utils.get_total_norm, grads)}
    exact = call(torch.nn.utils.get_total_norm, [grad.double() for grad in grads])
    return Problem(contenders, exact, size * dtype.itemsize, allowed=1e-3)  # eager sums in float32


CASES = tuple(
    Case(name, (total(shapes),), partial(norms, shapes), always_warm=True)
    for name, shapes in (("166 tensors of a network", NETWORK), ("200 small tensors", SMALL))
)
