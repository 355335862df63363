"""The plots of the reference: f, f' and f'' of each operation, computed by the operation and its own autograd."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from torchnotes import functional as F
from torchnotes.ops.normalization._statistics import merged

matplotlib.use("agg")
GREY = "#7d7d7d"  # readable on white and on black
COLOURS = ("#2f80c2", "#d9651b", "#149474", "#b0659b")  # after Okabe and Ito, for all eyes
STYLES = ("-", "--", "-.", ":")  # to tell curves apart without colours
LOOK = {
    "axes.prop_cycle": plt.cycler(color=COLOURS, linestyle=STYLES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.transparent": True,
    "svg.hashsalt": "torchnotes",  # makes the file reproducible
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), GREY),
}
DRAWINGS: dict[str, Callable[[], "Picture"]] = {}
Curve = Callable[[Tensor], Tensor]  # elementwise


class Picture(NamedTuple):
    alt: str
    caption: str


def draw(stem: str, path: Path) -> Picture | None:
    """Writes the plots of a page, if it has any."""
    if stem not in DRAWINGS:
        return None
    with plt.rc_context(LOOK), torch.random.fork_rng():
        torch.manual_seed(0)
        picture = DRAWINGS[stem]()
        plt.savefig(path, metadata={"Date": None})
        plt.close()
    return picture


def drawing(function: Callable[[], Picture]) -> Callable[[], Picture]:
    DRAWINGS[function.__name__] = function
    return function


def panels(number: int, height: float = 2.6) -> list[Axes]:
    return list(plt.subplots(1, number, figsize=(8.4, height))[1])


def legend_below(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    ax.figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def derivatives(f: Curve, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f, f' and f'' at each x."""
    x = x.clone().requires_grad_()
    y = f(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    curvature = torch.zeros_like(x)
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), x, materialize_grads=True)
    return y.detach(), slope.detach(), curvature


def three(curves: Mapping[str, Curve], low: float, high: float, x_label: str, f: str = "f") -> str:
    """Plots f, f' and f'' side by side, and breaks the line where a derivative jumps. Returns the alternative text."""
    x = torch.linspace(low, high, 601, dtype=torch.float64)
    axes = panels(3)
    for label, curve in curves.items():
        for ax, y in zip(axes, derivatives(curve, x), strict=True):
            jumps = y.diff().abs() > 0.08 * (1 + y.max() - y.min())
            ax.plot(x, torch.where(torch.cat((jumps, jumps[:0].new_zeros(1))), math.nan, y), label=label)
    for ax, title in zip(axes, (f"${f}$", f"${f}'$", f"${f}''$"), strict=True):
        ax.set_title(title)
        ax.set_xlabel(x_label)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.axhline(0, color=GREY, linestyle="-", linewidth=0.5, zorder=0)
        if ax.dataLim.height < 1e-9:
            ax.set_ylim(-1, 1)
    if len(curves) > 1:
        legend_below(axes[0])
    named = f" for {', '.join(curves)}" if len(curves) > 1 else ""
    alt = f"Three plots over {x_label}: the function, its first and its second derivative{named}"
    return alt.replace("$", "").replace("\\", "")


@drawing
def sigmoid() -> Picture:
    alt = three({"": F.sigmoid}, -6, 6, "$z$", "s")
    return Picture(alt, "{math}`s'` is greatest at 0, where it is 1/4; {math}`s''` is positive iff {math}`s < 1/2`.")


@drawing
def tanh() -> Picture:
    alt = three({"": F.tanh}, -4, 4, "$z$", "t")
    return Picture(alt, "{math}`t'` is greatest at 0, where it is 1.")


@drawing
def relu() -> Picture:
    alt = three({"": F.relu}, -3, 3, "$z$")
    return Picture(alt, "At the kink the derivative is 0.")


@drawing
def leaky_relu() -> Picture:
    slopes = {f"$a = {a}$": lambda z, a=a: F.leaky_relu(z, a) for a in (0.01, 0.3, 1)}
    return Picture(
        three(slopes, -3, 3, "$z$"), "At the kink the derivative is {math}`a`. {math}`a = 1` is the identity."
    )


def row_of_logits(x: Tensor) -> Tensor:
    """Three logits, the first of which is x."""
    return torch.stack((x, torch.zeros_like(x), torch.ones_like(x)), dim=-1)


@drawing
def softmax() -> Picture:
    outputs = {f"$y_{k}$": lambda x, k=k: F.softmax(row_of_logits(x), -1)[..., k] for k in range(3)}
    alt = three(outputs, -6, 7, "$x_0$", "y")
    return Picture(alt, "The softmax of three logits as one of them moves; the others are 0 and 1.")


@drawing
def log_softmax() -> Picture:
    outputs = {f"$y_{k}$": lambda x, k=k: F.log_softmax(row_of_logits(x), -1)[..., k] for k in range(3)}
    alt = three(outputs, -6, 7, "$x_0$", "y")
    return Picture(
        alt, "Three logits, one of which moves; the others are 0 and 1. All three have the same second derivative."
    )


@drawing
def linear() -> Picture:
    def layer(x: Tensor, activation: str | None) -> Tensor:
        weight, bias = torch.full((1, 1), 2.0, dtype=x.dtype), torch.full((1,), -1.0, dtype=x.dtype)
        return F.linear(x[:, None], weight, bias, activation=activation, negative_slope=0.1)[:, 0]

    names = (None, "leaky_relu", "sigmoid", "tanh")
    curves = {name or "no activation": lambda x, name=name: layer(x, name) for name in names}
    return Picture(three(curves, -2, 3, "$x$"), "One input and one output, {math}`f(2x - 1)`, with the activations.")


@drawing
def batch_norm() -> Picture:
    def first(x: Tensor, **options: Any) -> Tensor:
        others = torch.tensor((-1.0, -0.5, 0.5, 1.0), dtype=x.dtype)[:, None].expand(4, len(x))
        return F.batch_norm(torch.cat((x[None], others)), None, None, training=True, **options)[0]

    curves: dict[str, Curve] = {
        "$y_1$": first,
        "mean only": lambda x: first(x, center_only=True),
        "tanh": lambda x: first(x, activation="tanh"),
    }
    return Picture(
        three(curves, -4, 4, "$x_1$", "y"),
        "The first of a batch of five numbers; the others are -1, -1/2, 1/2 and 1. However far it goes, it is at "
        "most {math}`\\sqrt{n - 1} = 2` deviations away.",
    )


@drawing
def sync_batch_norm() -> Picture:
    def variance(distance: Tensor, share: float) -> Tensor:
        ones = torch.ones_like(distance)
        ranks = ((share, 0 * distance, ones), (1 - share, distance, ones))
        return merged(torch.stack([torch.cat((n * ones[:1], mean, v)) for n, mean, v in ranks]))[2]

    shares = {"1/2": 0.5, "1/4": 0.25, "1/16": 0.0625}
    curves: dict[str, Curve] = {f"$n_1 = {name}\\, n$": lambda x, n=n: variance(x, n) for name, n in shares.items()}
    return Picture(
        three(curves, -4, 4, r"$\mu_2 - \mu_1$", "v"),
        "The variance of a batch on two ranks, each with variance 1, over the distance of their means, for several "
        "shares of the first rank. Statistics that are not synchronized miss the part above 1.",
    )


@drawing
def mse_loss() -> Picture:
    def loss(x: Tensor, y: float, w: float = 1) -> Tensor:
        return F.mse_loss(x, torch.full_like(x, y), reduction="none", weight=torch.full_like(x, w))

    curves: dict[str, Curve] = {
        "$y = 0$": lambda x: loss(x, 0),
        "$y = 1$": lambda x: loss(x, 1),
        "$y = 1, w = 1/2$": lambda x: loss(x, 1, 0.5),
    }
    return Picture(three(curves, -2, 3, "prediction $x$", "l"), "The loss of one prediction, for two targets.")


@drawing
def binary_cross_entropy_with_logits() -> Picture:
    def loss(x: Tensor, y: float, **options: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, torch.full_like(x, y), reduction="none", **options)

    curves: dict[str, Curve] = {
        "$y = 0$": lambda x: loss(x, 0),
        "$y = 1$": lambda x: loss(x, 1),
        "$y = 1$, smoothed by 0.2": lambda x: loss(x, 1, label_smoothing=0.2),
        "$y = 1, p = 2$": lambda x: loss(x, 1, pos_weight=torch.tensor(2.0, dtype=x.dtype)),
    }
    return Picture(three(curves, -6, 6, "logit $x$", "l"), "The loss of one logit. Its second derivative is positive.")


@drawing
def cross_entropy() -> Picture:
    def loss(x: Tensor, target: int, **options: Any) -> Tensor:
        return F.cross_entropy(row_of_logits(x), torch.full((len(x),), target), reduction="none", **options)

    curves: dict[str, Curve] = {
        "$t = 0$": lambda x: loss(x, 0),
        "$t = 1$": lambda x: loss(x, 1),
        "$t = 0$, smoothed by 0.3": lambda x: loss(x, 0, label_smoothing=0.3),
        "$t = 0$, capped at 3": lambda x: loss(x, 0, logit_softcap=3.0),
    }
    return Picture(
        three(curves, -6, 7, "logit $x_0$", "l"),
        "The loss of a row of three logits as the first of them moves; the others are 0 and 1.",
    )


@drawing
def linear_cross_entropy() -> Picture:
    weight = torch.tensor([[2.0], [-1.0], [0.5]], dtype=torch.float64)

    def loss(x: Tensor, target: int) -> Tensor:
        return F.linear_cross_entropy(x[:, None], weight, torch.full((len(x),), target), reduction="none")

    curves = {f"$t = {t}$": lambda x, t=t: loss(x, t) for t in range(3)}
    return Picture(
        three(curves, -4, 4, "input $x$", "l"),
        "The loss of one input with the logits {math}`2x, -x, x/2`, by the class.",
    )


@drawing
def pinball_loss() -> Picture:
    def loss(f: Tensor, tau: float, **options: Any) -> Tensor:
        return F.pinball_loss(f, torch.zeros_like(f), tau, reduction="none", **options)

    curves: dict[str, Curve] = {rf"$\tau = {tau}$": lambda f, tau=tau: loss(f, tau) for tau in (0.1, 0.5, 0.9)}
    curves[r"$\tau = 0.9, h = 1$"] = lambda f: loss(f, 0.9, smoothing=1.0)
    return Picture(
        three(curves, -3, 3, "prediction $f$", r"\rho"),
        "The loss of a prediction for the target 0. Smoothed, it is a parabola in a window of half-width {math}`h`.",
    )
