"""cross_entropy against torch's: forward and backward, and Hessian-vector products."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as builtin

from torchnotes.functional import cross_entropy
from torchnotes.testing.operations import OPERATIONS

from .accuracy import Accuracy, Function
from .rows import Maker, accuracy, case
from .timing import OURS, Case, Contender, against, differentiated

Loss = Callable[..., Tensor]


def targets(x: Tensor) -> tuple[Tensor]:
    return (torch.randint(x.shape[1], x.shape[:1], device=x.device),)


def targets_and_vector(x: Tensor) -> tuple[Tensor, ...]:
    return *targets(x), torch.randn_like(x)


def forward_backward(loss: Loss) -> Maker:
    return lambda x, target: differentiated(loss, (x, target), torch.ones((), dtype=x.dtype, device=x.device))


class Produced(torch.autograd.Function):
    """Returns the logits as an intermediate result, as a layer does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, memory: Tensor) -> Tensor:
        ctx.mark_dirty(memory)
        return memory


def in_place(x: Tensor, target: Tensor) -> Contender:
    """The logits of each step are the gradients of the previous one, because values do not affect the time."""

    def step() -> Sequence[Tensor]:
        logits = Produced.apply(x, x.detach())
        value = cross_entropy(logits, target, inplace_backward=True)
        (gradient,) = torch.autograd.grad(value, logits)
        return value, gradient

    return step


def hessian_vector(loss: Loss) -> Maker:
    def make(x: Tensor, target: Tensor, v: Tensor) -> Contender:
        def step() -> Sequence[Tensor]:
            (gradient,) = torch.autograd.grad(loss(x, target), x, create_graph=True)
            return torch.autograd.grad(gradient, x, v)

        return step

    return make


def of_each_row(loss: Loss) -> Function:
    """The losses of each row. If only one logit is finite its class is the target."""

    def losses(x: Tensor) -> Tensor:
        row = torch.arange(len(x), device=x.device)
        return loss(x, torch.where(row % 100 == 0, 0, 7 * row % x.shape[1]), reduction="none")

    return losses


def cases() -> tuple[Case | Accuracy, ...]:
    both = {name: forward_backward(loss) for name, loss in against(cross_entropy, builtin).items()}
    curvature = {OURS: hessian_vector(cross_entropy), "eager": hessian_vector(builtin)}
    shapes, dtypes = OPERATIONS["cross_entropy"].benchmarked, (torch.float32, torch.bfloat16)
    return (
        *(case("forward+backward", both, targets, 3, shape, dtype) for dtype in dtypes for shape in shapes),
        *(case("in place", both | {OURS: in_place}, targets, 3, shapes[-1], dtype) for dtype in dtypes),
        case("Hessian-vector", curvature, targets_and_vector, 6, shapes[-1]),
        accuracy(of_each_row(cross_entropy), of_each_row(builtin)),
    )
