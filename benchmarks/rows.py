"""The benchmarks of operations on rows of logits: forward and backward, for several numbers of rows and classes."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from torchnotes.testing.operations.rows import ROWS

from .accuracy import Accuracy, Function
from .timing import OURS, Case, Contender, Problem, against, differentiated, suffix, widened

Maker = Callable[..., Contender]  # called with logits that it may overwrite, and other tensors


def case(
    name: str,
    makers: dict[str, Maker],
    others: Callable[[Tensor], tuple[Tensor, ...]],
    copies_moved: int,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> Case:
    """`copies_moved`: the least memory traffic, in copies of the logits."""

    def setup(size: int, dtype: torch.dtype, device: torch.device) -> Problem:
        x = torch.randn(shape, dtype=dtype, device=device)
        rest = others(x)
        contenders = {name: make(x.clone().requires_grad_(), *rest) for name, make in makers.items()}
        exact = makers["eager"](*widened(x.requires_grad_(), *rest))
        return Problem(contenders, exact, copies_moved * x.nbytes)

    rows, classes = shape
    return Case(f"{name} {rows:,} x {classes:,}{suffix(dtype)}", (rows * classes,), setup, dtype)


def rows_of_every_scale(size: int) -> Tensor:
    """Rows of 1000 logits. Every hundredth row has only one finite logit."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size // 1000, 1000, dtype=torch.float64, generator=generator)
    x *= torch.tensor((0.001, 1, 100, 2500), dtype=torch.float64).repeat(len(x) // 4)[:, None]
    x[::100, 1:] = -math.inf
    return x


def quarters(y: Tensor) -> Tensor:
    """Numbers that are exact in every dtype."""
    return (torch.randint(-8, 9, y.shape, generator=torch.Generator().manual_seed(1)) / 4).to(y)


def accuracy(ours: Function, builtin: Function) -> Accuracy:
    return Accuracy({OURS: ours, "eager": builtin}, builtin, rows_of_every_scale, quarters, sizes=(1_000_000,))


def softmax_like(name: str) -> tuple[Case | Accuracy, ...]:
    def maker(function: Callable[..., Tensor]) -> Maker:
        return lambda x, g: differentiated(function, (x,), g)

    ours, builtin = (partial(function, dim=1) for function in (ROWS[name].function, getattr(torch.nn.functional, name)))
    makers = {each: maker(function) for each, function in against(ours, builtin).items()}
    shapes = ROWS[name].benchmarked
    return (
        *(case("forward+backward", makers, lambda x: (torch.randn_like(x),), 5, shape) for shape in shapes),
        accuracy(ours, builtin),
    )


BENCHMARKS = {name: partial(softmax_like, name) for name in ROWS}
