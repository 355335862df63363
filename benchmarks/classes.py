"""The benchmarks of operations on rows of logits: forward and backward, for several numbers of rows and classes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .accuracy import Accuracy, Function
from .timing import OURS, Case, Contender, Problem, suffix

Step = Callable[..., Sequence[Tensor]]  # called with the results of `inputs`


@dataclass(frozen=True)
class Contest:
    """The steps to compare, on the same inputs, and the least memory traffic of a step, in copies of the logits."""

    steps: dict[str, Step]
    reference: Step
    inputs: Callable[[int, int, torch.dtype, torch.device], tuple[Tensor, ...]]
    copies_moved: int
    each_its_own: bool = False  # whether the steps overwrite their inputs


def case(name: str, contest: Contest, shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Case:
    rows, classes = shape
    name = f"{name} {rows:,} x {classes:,}{suffix(dtype)}"
    return Case(name, (rows * classes,), partial(_problem, contest, shape), dtype)


def _problem(contest: Contest, shape: tuple[int, int], size: int, dtype: torch.dtype, device: torch.device) -> Problem:
    inputs = contest.inputs(*shape, dtype, device)
    in_double = tuple(in_double_precision(x) for x in inputs)

    def call(step: Step, inputs: tuple[Tensor, ...]) -> Contender:
        if contest.each_its_own:
            inputs = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs)
        return lambda: step(*inputs)

    contenders = {name: call(step, inputs) for name, step in contest.steps.items()}
    return Problem(contenders, call(contest.reference, in_double), contest.copies_moved * inputs[0].nbytes)


def in_double_precision(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x


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


def softmax_like(ours: Callable, builtin: Callable, compiled: Callable) -> tuple[Case | Accuracy, ...]:
    def forward_backward(function: Callable) -> Step:
        def step(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
            y = function(x, 1)
            return y, *torch.autograd.grad(y, x, g)

        return step

    def inputs(rows: int, classes: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        x = torch.randn(rows, classes, dtype=dtype, device=device, requires_grad=True)
        return x, torch.randn_like(x, requires_grad=False)

    steps = {name: forward_backward(f) for name, f in ((OURS, ours), ("eager", builtin), ("compile", compiled))}
    contest = Contest(steps, forward_backward(builtin), inputs, copies_moved=5)
    return (
        *(case("forward+backward", contest, shape) for shape in ((128, 10), (8192, 1000), (1024, 32000))),
        accuracy(lambda x: ours(x, 1), lambda x: builtin(x, 1)),
    )
