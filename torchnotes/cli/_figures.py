"""The figures of a training's report, as HTML images."""

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._bad_input import extra
from ..classifier.comparison import COMPILED, OURS, TORCH, Result
from ..classifier.training import Contender

COLORS = {OURS: "#0072b2", TORCH: "#777777", COMPILED: "#d55e00"}
BINS = 10


def matplotlib_figure() -> Any:
    return extra("matplotlib.figure")


def image(description: str, *panels: Callable[[Any], None]) -> str:
    """Draws panels side by side, and returns an <img>."""
    figure = matplotlib_figure().Figure(figsize=(4.6 * len(panels), 3.5), layout="constrained")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Data has no positive values")  # an empty panel
        for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
            panel(axes)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, format="svg")
    return f'<img alt="{description}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'


def losses(contenders: Sequence[Contender]) -> str:
    def curves(axes: Any, quantity: str) -> None:
        for contender in contenders:
            epochs = range(1, len(contender.epochs) + 1)
            for part, line, label in (("train", "-", contender.name), ("validation", "--", None)):
                values = [getattr(epoch, f"{part}_{quantity}") for epoch in contender.epochs]
                axes.plot(epochs, values, line, color=COLORS[contender.name], label=label)
        axes.set(xlabel="epoch", title=f"{quantity} (validation dashed)")

    def loss(axes: Any) -> None:
        curves(axes, "loss")
        axes.set_yscale("log")
        axes.legend(frameon=False)

    return image("loss and score by epoch", loss, lambda axes: curves(axes, "score"))


def layers(contenders: Sequence[Contender]) -> str:
    """Draws one line per layer. The first one is the lightest."""

    def lines(axes: Any, quantity: str, title: str) -> None:
        for contender in contenders:
            by_layer = list(zip(*(getattr(epoch, quantity) for epoch in contender.epochs), strict=True))
            for number, values in enumerate(by_layer):
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    "-" if contender.name == OURS else "--",
                    color=COLORS[contender.name],
                    alpha=0.35 + 0.65 * number / max(1, len(by_layer) - 1),
                    label=f"{contender.name}, layer {number + 1}",
                )
        axes.set(xlabel="epoch", yscale="log", title=title)

    def variances(axes: Any) -> None:
        lines(axes, "variances", "variance of z = W x + b")
        axes.legend(frameon=False, fontsize="small")

    return image(
        "variance and gradient norm of each layer by epoch",
        variances,
        lambda axes: lines(axes, "gradient_norms", "norm of the gradient of W"),
    )


def calibration(results: Sequence[Result]) -> str:
    def reliability(axes: Any) -> None:
        axes.plot((0, 1), (0, 1), color="black", linewidth=0.8, linestyle=":")
        for result in results:
            confidence, accuracy, error = binned(result.confidences, result.correct)
            label = f"{result.name}: calibration error {error:.1%}"
            axes.plot(confidence, accuracy, "o-", markersize=4, color=COLORS[result.name], label=label)
        axes.set(xlabel="predicted probability", ylabel="accuracy", title="calibration (test)")
        axes.legend(frameon=False, fontsize="small")

    def confidences(axes: Any) -> None:
        for result in results:
            color = COLORS[result.name]
            axes.hist(result.confidences.tolist(), BINS, range=(0, 1), histtype="step", color=color, label=result.name)
        axes.set(xlabel="predicted probability", ylabel="rows", yscale="log", title="confidence (test)")

    return image("accuracy by predicted probability", reliability, confidences)


def binned(confidences: Tensor, correct: Tensor) -> tuple[Tensor, Tensor, float]:
    """The mean confidence and the accuracy of each bin that is not empty, and the expected calibration error."""
    bins = (confidences * BINS).long().clamp(max=BINS - 1)
    counts, confidence, accuracy = (
        torch.bincount(bins, weights.double(), BINS) for weights in (torch.ones_like(confidences), confidences, correct)
    )
    used = counts > 0
    error = (confidence - accuracy).abs().sum() / len(bins)
    return (confidence / counts)[used], (accuracy / counts)[used], error.item()
