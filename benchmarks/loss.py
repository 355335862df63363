"""The benchmarks of an elementwise loss: forward, and backward to the gradient of the prediction."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from torchnotes.testing.operations import OPERATIONS

from . import timing
from .accuracy import Accuracy, Function
from .timing import OURS, Case, Problem, against

Loss = Callable[..., Tensor]  # called with input, target and reduction
Inputs = Callable[[int], tuple[Tensor, Tensor]]

READS = 2  # input and target are read once forward and once backward


def normal(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size), torch.randn(size)


def logits_and_labels(size: int) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(size), torch.randint(2, (size,)).float()


def sizes_of(name: str) -> tuple[int, ...]:
    return tuple(n for (n,) in OPERATIONS[name].benchmarked)


def elementwise_loss(name: str, functions: dict[str, Loss], inputs: Inputs, sizes: tuple[int, ...]) -> tuple[Case, ...]:
    return tuple(
        Case(f"{name}, {reduction}", sizes, partial(forward_backward, functions, inputs, reduction))
        for reduction in ("mean", "none")
    )


def accuracy(ours: Loss, eager: Loss) -> Accuracy:
    def of_each(loss: Loss) -> Function:
        return lambda x: loss(x, torch.full_like(x, 0.25), reduction="none")

    return Accuracy({OURS: of_each(ours), "eager": of_each(eager)}, of_each(eager))


def forward_backward(
    functions: dict[str, Loss], inputs: Inputs, reduction: str, size: int, dtype: torch.dtype, device: torch.device
) -> Problem:
    x, y = (t.to(device, dtype) for t in inputs(size))
    x.requires_grad_()
    g = torch.ones((), dtype=dtype, device=device) if reduction == "mean" else torch.randn_like(x)
    losses = {name: partial(function, reduction=reduction) for name, function in functions.items()}
    each = 0 if reduction == "mean" else 2 * x.nbytes  # the losses and their gradients
    return timing.forward_backward(losses, (x, y), g, READS * (x.nbytes + y.nbytes) + x.nbytes + each)


def of_torch(name: str, inputs: Inputs) -> tuple[Case | Accuracy, ...]:
    """A loss that torch has, too."""
    ours, builtin = OPERATIONS[name].function, getattr(torch.nn.functional, name)
    cases = elementwise_loss("forward+backward", against(ours, builtin), inputs, sizes_of(name))
    return *cases, accuracy(ours, builtin)


BENCHMARKS = {
    name: partial(of_torch, name, inputs)
    for name, inputs in (("mse_loss", normal), ("binary_cross_entropy_with_logits", logits_and_labels))
}
