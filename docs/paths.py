"""Plots of optimizers: their paths to a minimum next to torch's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from torchnotes import optim
from torchnotes.testing.operation import Options, described

from .figures import COLORS, GREY, STYLES, legend_below

Optimizer = type[torch.optim.Optimizer]


def valley(w: Tensor) -> Tensor:
    return (w[0] ** 2 + 10 * w[1] ** 2) / 2


def rosenbrock(w: Tensor) -> Tensor:
    return (1 - w[0]) ** 2 + 5 * (w[1] - w[0] ** 2) ** 2


START = {valley: (-4.0, 1.5), rosenbrock: (-1.5, 1.5)}
MINIMUM = {valley: torch.zeros(2), rosenbrock: torch.ones(2)}


@dataclass
class Paths:
    """The paths of an optimizer with one or more options, and the distance to the minimum by step."""

    optimizer: Optimizer
    options: Sequence[Options] = ({"lr": 0.1},)
    loss: Callable[[Tensor], Tensor] = valley
    steps: int = 60
    caption: str = "Circles: the optimizer of torch."
    alt: str = "Paths to a minimum, and the distance to the minimum by step"

    def draw(self, figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        theirs = getattr(torch.optim, self.optimizer.__name__, None)
        for options, color, style in zip(self.options, COLORS, STYLES, strict=False):
            path = self.path(self.optimizer, options)
            left.plot(*path.T, color=color, linestyle=style, label=described(options), linewidth=1.2)
            right.semilogy((path - MINIMUM[self.loss]).norm(dim=1), color=color, linestyle=style, linewidth=1.4)
            if theirs:
                left.plot(*self.path(theirs, options)[::8].T, "o", color=color, markersize=5, markerfacecolor="none")
        x, y = (torch.linspace(*limits, 120) for limits in (left.get_xlim(), left.get_ylim()))
        heights = self.loss(torch.stack(torch.meshgrid(x, y, indexing="xy")))
        levels = torch.logspace(-2, math.log10(heights.max()), 9)
        left.contour(x, y, heights, levels, colors=GREY, linewidths=0.4, linestyles="-")
        left.plot(*MINIMUM[self.loss], "+", color=GREY, markersize=9)
        left.set_title("path")
        right.set_title("distance to the minimum by step")
        legend_below(left)

    def path(self, optimizer_class: Optimizer, options: Options) -> Tensor:
        """The parameters before the first step and after each."""
        w = torch.tensor(START[self.loss], dtype=torch.float64, requires_grad=True)
        optimizer = optimizer_class([w], **options)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(w)
            if optimizer_class is not optim.Newton:
                loss.backward()
            return loss

        path = [w.detach().clone()]
        for _ in range(self.steps):
            optimizer.step(closure)
            path.append(w.detach().clone())
        return torch.stack(path)


@dataclass
class Rounding:
    """Parameters in bfloat16 that take steps of a fraction of their precision."""

    caption: str = (
        "SGD with gradient 1 and a learning rate of 1e-4: each step is a fortieth of a unit in the last place."
    )
    alt: str = "The mean parameter over steps: rounded to nearest it stays at 1, otherwise it falls to 0.96"

    def draw(self, figure: Figure) -> None:
        axes = figure.subplots()
        for rounding in ("nearest", "stochastic", "kahan"):
            w = torch.ones(1000, dtype=torch.bfloat16, requires_grad=True)
            w.grad = torch.ones_like(w)
            optimizer = optim.SGD([w], lr=1e-4, rounding=rounding)
            means = []
            for _ in range(400):
                optimizer.step()
                means.append(w.detach().double().mean())
            axes.plot(means, label=rounding)
        axes.set_title("mean of 1000 parameters in bfloat16 by step")
        axes.legend()


MOMENTUM = dict(lr=0.05, momentum=0.7)
NEWTON = dict(max_iter=1, tolerance_grad=0.0)
PATHS = {
    "SGD": Paths(optim.SGD, [dict(lr=0.15), MOMENTUM, {**MOMENTUM, "nesterov": True}]),
    "RMSprop": Paths(optim.RMSprop, [dict(lr=0.1), dict(lr=0.1, centered=True), dict(lr=0.03, momentum=0.7)], steps=80),
    "Adam": Paths(
        optim.Adam, [dict(lr=0.2), dict(lr=0.2, amsgrad=True), dict(lr=0.2, betas=(0.5, 0.999))], rosenbrock, 150
    ),
    "AdamW": Paths(optim.AdamW, [dict(lr=0.1), dict(lr=0.1, weight_decay=0.2)], rosenbrock, 150),
    "Newton": Paths(optim.Newton, [NEWTON, {**NEWTON, "method": "cg"}], rosenbrock, 12, "In Rosenbrock's valley."),
    "rounding": Rounding(),
}
