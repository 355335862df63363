"""Plots of optimizers: their paths to a minimum next to those of torch's."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from torchnotes import optim

from .curves import COLOURS, GREY, STYLES, Curve, Picture, drawing, legend_below, panels

Steps = Callable[[list[Tensor]], torch.optim.Optimizer]


def valley(p: Tensor) -> Tensor:
    return (p[0] ** 2 + 10 * p[1] ** 2) / 2


ROSENBROCK = "{math}`(1 - w_1)^2 + 5 (w_2 - w_1^2)^2`"


def rosenbrock(p: Tensor) -> Tensor:
    return (1 - p[0]) ** 2 + 5 * (p[1] - p[0] ** 2) ** 2


def way(make: Steps, f: Curve, start: tuple[float, float], steps: int) -> Tensor:
    """The parameters after each step of an optimizer."""
    p = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = make([p])
    places = [p.detach().clone()]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = f(p)
        if not isinstance(optimizer, optim.Newton):
            loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)  # type: ignore[arg-type] # the signature depends on the optimizer
        places.append(p.detach().clone())
    return torch.stack(places)


def ways(
    f: Curve, start: tuple[float, float], steps: int, makes: Mapping[str, tuple[Steps, Steps | None]], goal: Tensor
) -> None:
    """Plots the paths on the left, with circles for torch's, and the distance to the minimum on the right."""
    axes = panels(2, 3)
    found = {label: (way(ours, f, start, steps), theirs) for label, (ours, theirs) in makes.items()}
    for (label, (ours, theirs)), colour, style in zip(found.items(), COLOURS, STYLES, strict=False):
        axes[0].plot(*ours.T, color=colour, linestyle=style, label=label, linewidth=1.2)
        if theirs is not None:
            other = way(theirs, f, start, steps)[:: max(1, steps // 15)]
            axes[0].plot(*other.T, "o", color=colour, markersize=5, markerfacecolor="none")
        axes[1].semilogy((ours - goal).norm(dim=1), color=colour, linestyle=style, linewidth=1.4)
    (left, right), (bottom, top) = axes[0].get_xlim(), axes[0].get_ylim()
    x, y = torch.meshgrid(torch.linspace(left, right, 120), torch.linspace(bottom, top, 120), indexing="xy")
    levels = f(torch.stack((x, y)))
    heights = torch.logspace(math.log10(max(1e-2, levels.min().item())), math.log10(levels.max().item()), 9)
    axes[0].contour(x, y, levels, heights, colors=GREY, linewidths=0.4, linestyles="-")
    axes[0].plot(*goal, "+", color=GREY, markersize=9)
    axes[0].set(title="path", xlabel="$w_1$", ylabel="$w_2$")
    axes[1].set(title="distance to the minimum", xlabel="step")
    legend_below(axes[0])


def pair(ours: Callable[..., Any], theirs: Callable[..., Any], **options: Any) -> tuple[Steps, Steps]:
    return lambda ps: ours(ps, **options), lambda ps: theirs(ps, **options)


WAYS = "Two plots: the paths of an optimizer to a minimum, with circles for torch's, and the distance to it by step"


@drawing
def sgd() -> Picture:
    makes = {
        "no momentum": pair(optim.SGD, torch.optim.SGD, lr=0.15),
        "momentum 0.7": pair(optim.SGD, torch.optim.SGD, lr=0.05, momentum=0.7),
        "Nesterov": pair(optim.SGD, torch.optim.SGD, lr=0.05, momentum=0.7, nesterov=True),
    }
    ways(valley, (-4.0, 1.5), 60, makes, torch.zeros(2))
    return Picture(WAYS, "In a valley ten times as steep across as along. Circles: torch.optim.SGD.")


@drawing
def rmsprop() -> Picture:
    makes = {
        "plain": pair(optim.RMSprop, torch.optim.RMSprop, lr=0.1, alpha=0.9),
        "centered": pair(optim.RMSprop, torch.optim.RMSprop, lr=0.1, alpha=0.9, centered=True),
        "momentum 0.7": pair(optim.RMSprop, torch.optim.RMSprop, lr=0.03, alpha=0.9, momentum=0.7),
    }
    ways(valley, (-4.0, 1.5), 80, makes, torch.zeros(2))
    return Picture(
        WAYS,
        "In a valley ten times as steep across as along. The steps do not depend on that: at first they are equally "
        "long in both directions. Circles: torch.optim.RMSprop.",
    )


@drawing
def adam() -> Picture:
    makes = {
        "Adam": pair(optim.Adam, torch.optim.Adam, lr=0.2),
        "AMSGrad": pair(optim.Adam, torch.optim.Adam, lr=0.2, amsgrad=True),
        r"$\beta_1 = 0.5$": pair(optim.Adam, torch.optim.Adam, lr=0.2, betas=(0.5, 0.999)),
    }
    ways(rosenbrock, (-1.5, 1.5), 150, makes, torch.ones(2))
    return Picture(WAYS, f"In Rosenbrock's valley, {ROSENBROCK}. Circles: torch.optim.Adam.")


@drawing
def adamw() -> Picture:
    makes = {
        "AdamW": pair(optim.AdamW, torch.optim.AdamW, lr=0.1, weight_decay=0.2),
        "Adam, same decay": pair(optim.Adam, torch.optim.Adam, lr=0.1, weight_decay=0.2),
    }
    ways(rosenbrock, (-1.5, 1.5), 150, makes, torch.ones(2))
    return Picture(
        WAYS,
        "In Rosenbrock's valley. Adam divides the decay by the root of v, AdamW does not. Both end where the decay "
        "balances the loss, not in the minimum. Circles: torch.optim.AdamW and Adam.",
    )


@drawing
def newton() -> Picture:
    makes: dict[str, tuple[Steps, Steps | None]] = {
        "Newton": (lambda ps: optim.Newton(ps, max_iter=1, tolerance_grad=0.0), None),
        "conjugate gradients": (lambda ps: optim.Newton(ps, max_iter=1, tolerance_grad=0.0, method="cg"), None),
        "SGD": (lambda ps: optim.SGD(ps, lr=0.01), None),
    }
    ways(rosenbrock, (-1.5, 1.5), 12, makes, torch.ones(2))
    return Picture(
        "Two plots: Newton's paths to the minimum in 12 steps next to that of gradient descent, and the distance to it",
        f"In Rosenbrock's valley, {ROSENBROCK}. Near the minimum each step doubles the number of digits.",
    )


@drawing
def gradient_norm() -> Picture:
    x = torch.arange(-100, 101, dtype=torch.float64) / 25
    axes = panels(3)
    for other, colour, style in zip((0.0, 1.0, 3.0), COLOURS, STYLES, strict=False):
        n = torch.stack([optim.gradient_norm([torch.stack((each, torch.full_like(each, other)))]) for each in x])
        slope = torch.where(n > 0, x / n, math.nan)
        for ax, y in zip(axes, (n, slope, torch.where(n > 0, (1 - slope**2) / n, math.nan)), strict=True):
            ax.plot(x, y, color=colour, linestyle=style, label=f"$g_2 = {other:g}$")
    for ax, title in zip(axes, ("$n$", "$n' = g_1/n$", "$n'' = (1 - n'^2)/n$"), strict=True):
        ax.set(title=title, xlabel="$g_1$")
    legend_below(axes[0])
    return Picture(
        "Three plots over one of two numbers: the norm, its first and its second derivative",
        "The norm of two numbers as one of them moves. The operator itself has no derivative: {math}`n'` and "
        "{math}`n''` are computed from the formulas.",
    )


@drawing
def gradient() -> Picture:
    ax = plt.subplots(figsize=(4.2, 2.6))[1]
    gradients = torch.linspace(-4, 4, 201)
    for limit, colour, style in zip((1.0, 2.0, None), COLOURS, STYLES, strict=False):
        steps = []
        for g in gradients:
            w = torch.zeros(1, requires_grad=True)
            w.grad = g[None].clone()
            optim.SGD([w], lr=1.0, max_grad_norm=limit).step()
            steps.append(-w.item())
        ax.plot(gradients, steps, color=colour, linestyle=style, label=f"$c = {limit:g}$" if limit else "no limit")
    ax.set(title="step of SGD", xlabel="gradient $g$", ylabel="$d$")
    ax.legend()
    return Picture(
        "A plot of the step over the gradient, which is cut off at the limit",
        "One parameter and three limits c: `max_grad_norm`.",
    )


@drawing
def rounding() -> Picture:
    ax = plt.subplots(figsize=(4.2, 2.8))[1]
    steps = 400
    for rounding, colour, style in zip(("nearest", "stochastic", "kahan"), COLOURS, STYLES, strict=False):
        w = torch.ones(1000, dtype=torch.bfloat16, requires_grad=True)
        w.grad = torch.ones_like(w)
        optimizer = optim.SGD([w], lr=1e-4, rounding=rounding)
        places = []
        for _ in range(steps):
            optimizer.step()
            places.append(w.detach().double())
        ways = torch.stack(places)
        if rounding == "stochastic":
            ax.plot(ways[:, 0], color=colour, linestyle="-", linewidth=0.8, label="stochastic, one of 1000")
            ax.plot(ways.mean(1), color=colour, linestyle=style, label="stochastic, mean")
        else:
            ax.plot(ways[:, 0], color=colour, linestyle=style, linewidth=1.2, label=rounding)
    ax.set(title="a parameter of bfloat16", xlabel="step", ylabel="$w$")
    ax.legend()
    return Picture(
        "A plot of a parameter over steps: to the nearest it stays at 1, stochastic and kahan it falls to 0.96",
        "SGD with gradient 1 and rate {math}`10^{-4}`: each step is a fortieth of a unit in the last place of w.",
    )
