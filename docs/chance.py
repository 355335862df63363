"""Plots of random operations: the mean and spread of dropout, the densities of initializers."""

import math
from collections.abc import Callable

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from torchnotes import functional as F
from torchnotes import init as initializers
from torchnotes import nn
from torchnotes.signal import propagation

from .curves import COLOURS, GREY, STYLES, Picture, drawing, legend_below, panels


def noise_panels(d: Tensor, name: str, histogram: Callable[[Axes, Tensor], None], number: int) -> list[Axes]:
    """Plots the mean and spread of y = d x over x, and the slopes d."""
    axes = panels(number)
    x = torch.linspace(0, 2, 9)
    std = d.std()
    few = torch.rand(400) * 2
    axes[0].scatter(few, few * d[:400], s=4, color=COLOURS[0], alpha=0.5)
    axes[0].plot(x, x, color=COLOURS[1], linestyle="-", label="mean")
    axes[0].plot(x, x * (1 + std), color=COLOURS[2], linestyle="--", label="mean ± deviation")
    axes[0].plot(x, x * (1 - std), color=COLOURS[2], linestyle="--")
    axes[0].set(title=f"$y$ of 400 elements, {name}", xlabel="$x$")
    axes[0].legend()
    histogram(axes[1], d)
    axes[1].set(title="$y' = d$, frequency", xlabel="$d$")
    return axes


@drawing
def dropout() -> Picture:
    d = F.dropout(torch.ones(100_000), 0.2)

    def bars(ax: Axes, d: Tensor) -> None:
        values, counts = d.unique(return_counts=True)
        ax.bar(values, counts / len(d), width=0.1, color=COLOURS[0])

    noise_panels(d, "$p = 1/5$", bars, 2)
    return Picture(
        "Two plots: outputs lie on the lines 0 and 5/4 x around their mean x; a fifth of the slopes is 0",
        "Each element gets one of two slopes, 0 or {math}`1/(1 - p)`, which is its derivative; the second one is 0.",
    )


def density(x: Tensor, mean: float, std: float) -> Tensor:
    return (-((x - mean) ** 2) / (2 * std**2)).exp() / (std * math.sqrt(2 * math.pi))


@drawing
def gaussian_dropout() -> Picture:
    sigma = 0.5

    def steps(ax: Axes, d: Tensor) -> None:
        ax.hist(d, bins=60, density=True, color=COLOURS[0], alpha=0.5)
        x = torch.linspace(-1, 3, 200)
        ax.plot(x, density(x, 1, sigma), color=COLOURS[1], linestyle="-")

    axes = noise_panels(F.gaussian_dropout(torch.ones(100_000), sigma=sigma), r"$\sigma = 1/2$", steps, 3)
    w = torch.linspace(-1, 3, 25)
    x, t = torch.ones(1), 1.0
    error = (t - w) ** 2 / 2
    noisy = (t - F.gaussian_dropout(w.expand(20_000, -1), sigma=sigma)) ** 2 / 2
    penalty = torch.stack([F.gaussian_dropout_penalty(x, each[None], sigma) for each in w])
    axes[2].plot(w, noisy.mean(0), "o", markersize=3, color=COLOURS[0], label="mean of 20,000 $J$")
    axes[2].plot(w, error + penalty, color=COLOURS[1], linestyle="-", label="error and penalty")
    axes[2].plot(w, error, color=COLOURS[2], linestyle="--", label="squared error")
    axes[2].set(title="$E[J]$", xlabel="weight $w$")
    axes[2].legend()
    return Picture(
        "Three plots: outputs spread around their mean x in proportion to x; the slopes are normal around 1; the mean "
        "loss over a weight lies on the squared error plus the penalty",
        "Each element gets a slope of its own, which is its derivative; the second one is 0. On the right, what "
        "the noise does to the loss of a weight for {math}`x = t = 1`: it adds the penalty, and moves the minimum.",
    )


def histogram(ax: Axes, numbers: Tensor, mean: float, std: float, title: str) -> None:
    ax.hist(numbers, bins=80, density=True, color=COLOURS[0], alpha=0.5)
    for place in (mean - std, mean + std):
        ax.axvline(place, color=COLOURS[2], linestyle="--", label="mean ± deviation" if place > mean else None)
    ax.set(title=title, yticks=[])


@drawing
def uniform() -> Picture:
    axes = panels(2, 2.3)
    for ax, (low, high) in zip(axes, ((0.0, 1.0), (-2.0, 1.0)), strict=True):
        numbers = initializers.uniform_(torch.empty(200_000), low, high)
        histogram(ax, numbers, (low + high) / 2, (high - low) / math.sqrt(12), f"$U[{low:g}, {high:g})$")
        ax.plot((low, low, high, high), (0, 1 / (high - low), 1 / (high - low), 0), color=COLOURS[1], linestyle="-")
    legend_below(axes[0])
    return Picture(
        "Two histograms with the densities of U[0, 1) and U[-2, 1)",
        "200,000 numbers each, and the density. The deviation is {math}`(b - a)/\\sqrt{12}`.",
    )


@drawing
def normal() -> Picture:
    axes = panels(2, 2.3)
    for ax, (mean, std) in zip(axes, ((0.0, 1.0), (1.0, 0.5)), strict=True):
        numbers = initializers.normal_(torch.empty(200_000), mean, std)
        histogram(ax, numbers, mean, std, f"$N({mean:g}, {std:g}^2)$")
        x = torch.linspace(mean - 4 * std, mean + 4 * std, 200)
        ax.plot(x, density(x, mean, std), color=COLOURS[1], linestyle="-")
    legend_below(axes[0])
    return Picture(
        "Two histograms with the densities of N(0, 1) and N(1, 1/4)", "200,000 numbers each, and the density."
    )


@drawing
def trunc_normal() -> Picture:
    axes = panels(2, 2.3)
    for ax, (low, high) in zip(axes, ((-2.0, 2.0), (0.5, 3.0)), strict=True):
        numbers = initializers.trunc_normal_(torch.empty(200_000), a=low, b=high)
        histogram(ax, numbers, numbers.mean().item(), numbers.std().item(), f"$N(0, 1)$ in $[{low:g}, {high:g}]$")
        x = torch.linspace(low, high, 200)
        part = torch.special.ndtr(torch.tensor((low, high))).diff()
        ax.plot(x, density(x, 0, 1) / part, color=COLOURS[1], linestyle="-")
    legend_below(axes[0])
    return Picture(
        "Two histograms with the densities of normal numbers between -2 and 2 and between 1/2 and 3",
        "200,000 numbers each, and the density.",
    )


@drawing
def init() -> Picture:
    fills = {
        "He": initializers.he_normal_,
        "LeCun": initializers.lecun_normal_,
        "Glorot": initializers.glorot_uniform_,
        "default": initializers.default_uniform_,
    }
    axes = plt.subplots(1, 5, figsize=(8.4, 2.6), width_ratios=(1, 1, 1, 1, 2))[1]
    for ax, (name, fill), colour, style in zip(axes, fills.items(), COLOURS, STYLES, strict=False):
        weight = fill(torch.empty(1000, 250)).flatten()
        ax.hist(weight, bins=60, density=True, color=colour, alpha=0.5)
        for place in (-weight.std(), weight.std()):
            ax.axvline(place, color=GREY, linestyle="--", linewidth=1)
        ax.set(title=name, xlim=(-0.25, 0.25), yticks=[], xlabel="$w$")
        x, sizes = torch.randn(64, 250), []
        for _ in range(20):
            x = F.relu(F.linear(x, fill(torch.empty(250, 250))))
            sizes.append(x.square().mean())
        axes[4].semilogy(range(1, 21), sizes, color=colour, linestyle=style, label=name)
    axes[4].set(title="$E[x^2]$ behind rectifying layers", xlabel="layer", xticks=range(0, 21, 5))
    axes[4].legend()
    return Picture(
        "Five plots: the densities of four initializers with their deviations, and how large the outputs of layers are",
        "Weights of 250 inputs and 1000 outputs: `he_normal_`, `lecun_normal_`, `glorot_uniform_`, `default_uniform_`. "
        "Behind rectifiers only He's keep the outputs as large as they were; the default loses a factor of 6 a layer.",
    )


@drawing
def signal() -> Picture:
    def network() -> nn.MLP:
        return nn.MLP((256,) * 21, "relu")

    axes = panels(2, 2.8)
    for scheme, colour, style in zip(("he", "lecun", "default"), COLOURS, STYLES, strict=False):
        model = initializers.initialize_(network(), scheme, seed=0)
        layers = propagation(model, torch.randn(64, 256), schemes=()).layers
        count = range(1, len(layers) + 1)
        axes[0].semilogy(count, [layer.var_z for layer in layers], color=colour, linestyle=style, label=scheme)
        axes[0].semilogy(count[::2], [layer.predicted for layer in layers[::2]], "o", color=colour, markersize=3)
        axes[1].semilogy(count, [layer.var_gradient for layer in layers], color=colour, linestyle=style)
    axes[0].set(title="Var(z)", xlabel="layer", xticks=range(0, 21, 5))
    axes[1].set(title="Var(dL/dz)", xlabel="layer", xticks=range(0, 21, 5))
    legend_below(axes[0])
    return Picture(
        "Two plots over 20 layers, for three ways to start them: the variance of z, with the predicted ones as dots on "
        "it, and that of the gradient",
        "20 rectifying layers of 256, started in three ways. Dots: what is predicted from the layer's input.",
    )
