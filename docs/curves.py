"""Plots of functions of one number, with their derivatives as computed by the operation and autograd."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import grad, vmap

from torchnotes import functional as F
from torchnotes import optim
from torchnotes.ops.normalization._statistics import merged
from torchnotes.testing.operation import Options, described
from torchnotes.testing.operations import OPERATIONS

from .figures import GREY, legend_below


@dataclass
class Curves:
    """f, f' and f'' of a function with one or more options. Only f if it is not differentiable."""

    function: Callable[..., Tensor]  # from a scalar to a scalar
    options: Sequence[Options] = ({},)
    low: float = -4
    high: float = 4
    caption: str = ""
    differentiable: bool = True
    alt: str = "The function and its first and second derivative"

    def draw(self, figure: Figure) -> None:
        x = torch.linspace(self.low, self.high, 401, dtype=torch.float64)
        plots = figure.subplots(1, 3 if self.differentiable else 1, squeeze=False)[0]
        figure.set_figwidth(2.8 * len(plots) if self.differentiable else 4.2)
        for options in self.options:
            f = partial(self.function, **options)
            values = derivatives(f, x) if self.differentiable else [torch.stack([f(each) for each in x])]
            for axes, y in zip(plots, values, strict=True):
                axes.plot(x, without_jumps(y), label=described(options))
        for axes, title in zip(plots, ("$f$", "$f'$", "$f''$"), strict=False):
            axes.set_title(title)
            axes.axhline(0, color=GREY, linestyle="-", linewidth=0.5, zorder=0)
            if axes.dataLim.height < 1e-9:
                axes.set_ylim(-1, 1)
        if len(self.options) > 1:
            legend_below(plots[0])


def derivatives(f: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """f, f' and f'' at each x."""
    return [vmap(order)(x) for order in (f, grad(f), grad(grad(f)))]


def without_jumps(y: Tensor) -> Tensor:
    """Breaks the line where a function jumps."""
    jumps = y.diff(append=y[-1:]).abs() > 0.08 * (1 + y.max() - y.min())
    return torch.where(jumps, math.nan, y)


def of_record(name: str) -> Curves:
    """The plot of an operation that has none below: its first output over its first input."""
    operation = OPERATIONS[name]
    sample = operation.stateless(operation.sample({}, operation.small))
    sample = {name: x.detach() if isinstance(x, Tensor) else x for name, x in sample.items()}

    def first(x: Tensor) -> Tensor:
        input = torch.cat((x[None], sample["input"].flatten()[1:])).view_as(sample["input"])
        return operation.function(**{**sample, "input": input}).flatten()[0]

    return Curves(first)


def vector(*numbers: float | Tensor) -> Tensor:
    return torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in numbers])


def softmax(x: Tensor, output: int, function: Callable[..., Tensor] = F.softmax) -> Tensor:
    return function(vector(x, 0, 1), -1)[output]


def linear(x: Tensor, **options: Any) -> Tensor:
    return F.linear(x[None], vector(2)[None], vector(-1), **options)[0]


def batch_norm(x: Tensor, **options: Any) -> Tensor:
    return F.batch_norm(vector(x, -1, -0.5, 0.5, 1)[:, None], None, None, training=True, **options)[0, 0]


def variance(distance: Tensor, share: float) -> Tensor:
    return merged(torch.stack((vector(share, 0, 1), vector(1 - share, distance, 1))))[2][0]


def elementwise_loss(x: Tensor, loss: Callable[..., Tensor], target: float, **options: Any) -> Tensor:
    return loss(x, torch.tensor(target, dtype=torch.float64), **options)


def cross_entropy(x: Tensor, target: int, **options: Any) -> Tensor:
    return F.cross_entropy(vector(x, 0, 1), torch.tensor(target), **options)


def linear_cross_entropy(x: Tensor, target: int) -> Tensor:
    return F.linear_cross_entropy(x[None, None], vector(2, -1, 0.5)[:, None], torch.tensor([target]))


def gradient_norm(x: Tensor, other: float) -> Tensor:
    return optim.gradient_norm([vector(x, other)])


OUTPUTS = [dict(output=k) for k in range(3)]
LOGITS = "Three logits, one of which moves; the others are 0 and 1."
CURVES = {
    "leaky_relu": Curves(F.leaky_relu, [dict(negative_slope=a) for a in (0.01, 0.3, 1)]),
    "softmax": Curves(softmax, OUTPUTS, -6, 7, LOGITS),
    "log_softmax": Curves(partial(softmax, function=F.log_softmax), OUTPUTS, -6, 7, LOGITS),
    "linear": Curves(
        linear,
        [dict(activation=name) for name in (None, "leaky_relu", "sigmoid", "tanh")],
        caption="One input and one output, with weight 2 and bias -1.",
    ),
    "batch_norm": Curves(
        batch_norm,
        [{}, dict(center_only=True), dict(activation="tanh")],
        caption="The first of a batch of five numbers; the others are -1, -1/2, 1/2 and 1. However far it moves, it is "
        r"at most :math:`\sqrt{n - 1} = 2` deviations away.",
    ),
    "sync_batch_norm": Curves(
        variance,
        [dict(share=share) for share in (0.5, 0.25, 0.0625)],
        caption="The variance of a batch on two ranks, each of variance 1, over the distance of their means. The first "
        "rank has a share of the batch. Without synchronization the variance would be 1.",
    ),
    "mse_loss": Curves(partial(elementwise_loss, loss=F.mse_loss), [dict(target=0), dict(target=1)]),
    "binary_cross_entropy_with_logits": Curves(
        partial(elementwise_loss, loss=F.binary_cross_entropy_with_logits),
        [dict(target=0), dict(target=1), dict(target=1, label_smoothing=0.2)],
        *(-6, 6),
    ),
    "cross_entropy": Curves(
        cross_entropy,
        [dict(target=0), dict(target=1), dict(target=0, label_smoothing=0.3), dict(target=0, logit_softcap=3.0)],
        *(-6, 7, LOGITS),
    ),
    "linear_cross_entropy": Curves(
        linear_cross_entropy,
        [dict(target=target) for target in range(3)],
        caption="The loss over one input x, with the logits 2x, -x and x/2.",
    ),
    "pinball_loss": Curves(
        partial(elementwise_loss, loss=F.pinball_loss, target=0),
        [*(dict(quantiles=tau) for tau in (0.1, 0.5, 0.9)), dict(quantiles=0.9, smoothing=1.0)],
    ),
    "gradient_norm": Curves(
        gradient_norm,
        [dict(other=x) for x in (0, 1, 3)],
        caption="The norm of two numbers, one of which moves.",
        differentiable=False,
    ),
}
