"""The benchmarks of an elementwise loss: forward, and backward to the gradient of the prediction."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .accuracy import Accuracy, Function
from .activation import compiled
from .timing import OURS, Case, Contender, Problem

Loss = Callable[..., Tensor]  # called with input, target and reduction
Inputs = Callable[[int], tuple[Tensor, Tensor]]

SIZES = (64, 10_000, 100_000, 1_000_000, 10_000_000)
READS = 2  # input and target are read once forward and once backward


def elementwise_loss(
    ours: Loss, builtin: Loss, inputs: Inputs, sizes: tuple[int, ...] = SIZES, **more: Loss
) -> tuple[Case, ...]:
    """`more`: other formulations, to be compiled."""
    rivals = {OURS: ours, "eager": builtin, "compile": compiled(builtin)}
    rivals |= {name: compiled(loss) for name, loss in more.items()}
    return tuple(
        Case(f"forward+backward, {reduction}", sizes, partial(forward_backward, rivals, builtin, inputs, reduction))
        for reduction in ("mean", "none")
    )


def accuracy(ours: Loss, builtin: Loss) -> Accuracy:
    def of_each(loss: Loss) -> Function:
        return lambda x: loss(x, torch.full_like(x, 0.25), reduction="none")

    return Accuracy({OURS: of_each(ours), "eager": of_each(builtin)}, of_each(builtin))


def forward_backward(
    functions: dict[str, Loss],
    reference: Loss,
    inputs: Inputs,
    reduction: str,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Problem:
    x, y = (t.to(device, dtype) for t in inputs(size))
    x.requires_grad_()
    g = torch.ones((), dtype=dtype, device=device) if reduction == "mean" else torch.randn_like(x)

    def call(function: Loss, x: Tensor, y: Tensor, g: Tensor) -> Contender:
        def step() -> tuple[Tensor, Tensor]:
            loss = function(x, y, reduction=reduction)
            loss.backward(g)
            gradient, x.grad = x.grad, None
            assert gradient is not None
            return loss, gradient

        return step

    contenders = {name: call(function, x, y, g) for name, function in functions.items()}
    in_double = call(reference, x.detach().double().requires_grad_(), y.double(), g.double())
    each = 0 if reduction == "mean" else 2 * x.nbytes  # the losses and their gradients
    return Problem(contenders, in_double, READS * (x.nbytes + y.nbytes) + x.nbytes + each)
