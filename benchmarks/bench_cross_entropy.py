"""cross_entropy against torch's: forward and backward, and Hessian-vector products."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import torchnotes

from .accuracy import Function
from .activation import compiled
from .classes import Contest, accuracy, case
from .timing import OURS

Loss = Callable[..., Tensor]
SHAPES = ((128, 10), (64, 1000), (8192, 1000), (1024, 32000))

ours = torchnotes.functional.cross_entropy
builtin = torch.nn.functional.cross_entropy


def logits_and_targets(rows: int, classes: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    logits = torch.randn(rows, classes, dtype=dtype, device=device, requires_grad=True)
    return logits, torch.randint(classes, (rows,), device=device)


def forward_backward(loss: Loss) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def step(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        value = loss(x, target)
        (gradient,) = torch.autograd.grad(value, x)
        return value, gradient

    return step


class Produced(torch.autograd.Function):
    """Returns the logits as an intermediate result, as a layer does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, memory: Tensor) -> Tensor:
        ctx.mark_dirty(memory)
        return memory


def in_place(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of each step are the gradients of the previous one, because values do not affect the time."""
    logits = Produced.apply(x, x.detach())
    value = ours(logits, target, inplace_backward=True)
    (gradient,) = torch.autograd.grad(value, logits)
    return value, gradient


def hessian_vector(loss: Loss) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    def step(x: Tensor, target: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        (gradient,) = torch.autograd.grad(loss(x, target), x, create_graph=True)
        return torch.autograd.grad(gradient, x, v)

    return step


def with_vector(rows: int, classes: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    x, target = logits_and_targets(rows, classes, dtype, device)
    return x, target, torch.randn_like(x, requires_grad=False)


def rivals(make: Callable[[Loss], Callable], **more: Loss) -> dict[str, Callable]:
    return {name: make(loss) for name, loss in {OURS: ours, "eager": builtin, **more}.items()}


def of_each_row(loss: Loss) -> Function:
    """The losses of each row. If only one logit is finite its class is the target."""

    def losses(x: Tensor) -> Tensor:
        row = torch.arange(len(x), device=x.device)
        return loss(x, torch.where(row % 100 == 0, 0, 7 * row % x.shape[1]), reduction="none")

    return losses


BOTH = Contest(
    rivals(forward_backward, compile=compiled(builtin)), forward_backward(builtin), logits_and_targets, copies_moved=3
)
IN_PLACE = Contest(BOTH.steps | {OURS: in_place}, BOTH.reference, logits_and_targets, copies_moved=3, each_its_own=True)
CURVATURE = Contest(rivals(hessian_vector), hessian_vector(builtin), with_vector, copies_moved=6)

CASES = (
    *(case("forward+backward", BOTH, shape, dtype) for dtype in (torch.float32, torch.bfloat16) for shape in SHAPES),
    *(case("in place", IN_PLACE, SHAPES[-1], dtype) for dtype in (torch.float32, torch.bfloat16)),
    case("Hessian-vector", CURVATURE, SHAPES[-1]),
    accuracy(of_each_row(ours), of_each_row(builtin)),
)
