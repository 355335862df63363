"""The figures of a training's report, as HTML images."""

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .._bad_input import extra
from ..classifier.comparison import COMPILED, OURS, THEIRS, Result
from ..classifier.training import Contender

COLOURS = {OURS: "#0072b2", THEIRS: "#777777", COMPILED: "#d55e00"}
BINS = 10


def check_available() -> None:
    drawing()


def drawing() -> Any:
    return extra("matplotlib.figure")


def image(panels: Sequence[Callable[[Any], None]], about: str) -> str:
    """Draws panels side by side, and returns an <img>."""
    figure = drawing().Figure(figsize=(4.6 * len(panels), 3.5), layout="constrained")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Data has no positive values")  # an empty panel
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            panel(axes)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, format="svg")
    return f'<img alt="{about}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'


def losses(contenders: Sequence[Contender]) -> str:
    def curves(axes: Any, of: str) -> None:
        for contender in contenders:
            epochs = range(1, len(contender.epochs) + 1)
            for part, line in (("train", "-"), ("validation", "--")):
                values = [getattr(epoch, f"{part}_{of}") for epoch in contender.epochs]
                label = contender.name if part == "train" else None
                axes.plot(epochs, values, line, color=COLOURS[contender.name], label=label)
        axes.set(xlabel="epoch", title=f"{of} (validation dashed)")

    def loss(axes: Any) -> None:
        curves(axes, "loss")
        axes.set_yscale("log")
        axes.legend(frameon=False)

    return image((loss, lambda axes: curves(axes, "accuracy")), "loss and accuracy over the epochs")


def layers(contenders: Sequence[Contender]) -> str:
    """Draws one line per layer. The first one is the lightest."""

    def lines(axes: Any, of: str) -> None:
        for contender in contenders:
            by_layer = list(zip(*(getattr(epoch, of) for epoch in contender.epochs), strict=True))
            for number, values in enumerate(by_layer):
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    "-" if contender.name == OURS else "--",
                    color=COLOURS[contender.name],
                    alpha=0.35 + 0.65 * number / max(1, len(by_layer) - 1),
                    label=f"{contender.name}, layer {number + 1}",
                )
        axes.set(xlabel="epoch", yscale="log")

    def variances(axes: Any) -> None:
        lines(axes, "variances")
        axes.set_title("variance of z = W x + b")
        axes.legend(frameon=False, fontsize="small")

    def norms(axes: Any) -> None:
        lines(axes, "gradient_norms")
        axes.set_title("norm of the gradient of W")

    return image((variances, norms), "variance and norm of the gradient of each layer over the epochs")


def calibration(results: Sequence[Result]) -> str:
    def reliability(axes: Any) -> None:
        axes.plot((0, 1), (0, 1), color="black", linewidth=0.8, linestyle=":")
        for result in results:
            confidence, right, _ = binned(result)
            label = f"{result.name}: off by {calibration_error(result):.1%} on average"
            axes.plot(confidence, right, "o-", markersize=4, color=COLOURS[result.name], label=label)
        axes.set(xlabel="probability of the class told", ylabel="how often it is right", title="calibration (test)")
        axes.legend(frameon=False, fontsize="small")

    def confidences(axes: Any) -> None:
        for result in results:
            colour = COLOURS[result.name]
            axes.hist(result.confidences.tolist(), BINS, range=(0, 1), histtype="step", color=colour, label=result.name)
        axes.set(xlabel="probability of the class told", ylabel="rows", yscale="log", title="how sure (test)")

    return image((reliability, confidences), "how often a class is right, over its probability")


def binned(result: Result) -> tuple[list[float], list[float], list[float]]:
    """The mean probability, the accuracy and the share of rows of each bin that is not empty."""
    bins = (result.confidences * BINS).long().clamp(max=BINS - 1)
    counts = torch.bincount(bins, minlength=BINS)
    there = counts > 0
    sums = (torch.bincount(bins, values.double(), BINS)[there] for values in (result.confidences, result.right))
    confidence, right = (total / counts[there] for total in sums)
    return confidence.tolist(), right.tolist(), (counts[there] / counts.sum()).tolist()


def calibration_error(result: Result) -> float:
    """The expected calibration error: the mean of |probability - accuracy| over the rows."""
    return sum(share * abs(confidence - right) for confidence, right, share in zip(*binned(result), strict=True))
