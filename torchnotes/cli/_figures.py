"""The figures of a training's report, as HTML images. Each has a description for readers who do not see it."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _html
from .._bad_input import extra
from ..classifier.comparison import COMPILED, OURS, TORCH, Result
from ..classifier.training import Contender

COLORS = {OURS: "#2f80c2", TORCH: _html.GREY, COMPILED: "#d9651b"}
BINS = 10


def image(alt: str, panel: Callable[[Any], None]) -> str:
    with extra("matplotlib").rc_context(_html.LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Data has no positive values")  # an empty panel
        figure = extra("matplotlib.figure").Figure(figsize=(4.6, 3.5), layout="constrained")
        axes = figure.subplots()
        panel(axes)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        return _html.image(figure, alt)


def losses(contenders: Sequence[Contender]) -> list[str]:
    """Losses and scores in training and validation."""
    task = contenders[0].task

    def curves(axes: Any, quantity: str) -> None:
        for contender in contenders:
            for part, line, label in (("train", "-", contender.name), ("validation", "--", None)):
                values = of_epochs(contender, f"{part}_{quantity}")
                how = dict(marker=marker(values), color=COLORS[contender.name], label=label)
                axes.plot(range(1, len(values) + 1), values, line, **how)
        by_epoch(axes)

    def loss(axes: Any) -> None:
        curves(axes, "loss")
        axes.set(yscale="log", title="loss (validation dashed)")
        axes.legend(frameon=False)

    def score(axes: Any) -> None:
        curves(axes, "score")
        axes.set(title=f"{task.metric} (validation dashed)")

    forms: dict[str, Callable[[float], str]] = {"loss": lambda loss: f"{loss:.3g}", "score": task.shown}
    changes = {
        quantity: "; ".join(
            f"{contender.name} {change(of_epochs(contender, f'train_{quantity}'), form)} in training, "
            f"{change(of_epochs(contender, f'validation_{quantity}'), form)} in validation"
            for contender in contenders
        )
        for quantity, form in forms.items()
    }
    return [
        image(f"Loss from the first to the last epoch: {changes['loss']}.", loss),
        image(f"The {task.metric} from the first to the last epoch: {changes['score']}.", score),
    ]


def of_epochs(contender: Contender, quantity: str) -> list[float]:
    return [getattr(epoch, quantity) for epoch in contender.epochs]


def by_epoch(axes: Any, **properties: Any) -> None:
    axes.set(xlabel="epoch", **properties)
    axes.xaxis.get_major_locator().set_params(integer=True)


def marker(values: Sequence[float]) -> str | None:
    return "o" if len(values) == 1 else None  # a line of one point is invisible


def change(values: Sequence[float], form: Callable[[float], str]) -> str:
    return f"{form(values[0])} to {form(values[-1])}"


def calibration(results: Sequence[Result]) -> list[str]:
    """The accuracy among rows of similar predicted probability, and how many rows there are of each."""
    bins = {result.name: binned(result.confidences, result.correct) for result in results}

    def reliability(axes: Any) -> None:
        axes.plot((0, 1), (0, 1), color=_html.GREY, linewidth=0.8, linestyle=":")
        for name, (confidence, accuracy, error) in bins.items():
            label = f"{name}: calibration error {error:.1%}"
            axes.plot(confidence, accuracy, "o-", markersize=4, color=COLORS[name], label=label)
        axes.set(xlabel="predicted probability", ylabel="accuracy", title="calibration (test)")
        axes.legend(frameon=False, fontsize="small")

    def confidences(axes: Any) -> None:
        for result in results:
            color = COLORS[result.name]
            axes.hist(result.confidences.tolist(), BINS, range=(0, 1), histtype="step", color=color, label=result.name)
        axes.set(xlabel="predicted probability", ylabel="rows", yscale="log", title="confidence (test)")

    errors = ", ".join(f"{error:.1%} for {name}" for name, (*_, error) in bins.items())
    certain = ", ".join(f"{(result.confidences > 0.9).sum()} for {result.name}" for result in results)
    return [
        image(f"Accuracy by predicted probability. The calibration error is {errors}.", reliability),
        image(f"Number of test rows by predicted probability. Above 90%: {certain}.", confidences),
    ]


def binned(confidences: Tensor, correct: Tensor) -> tuple[Tensor, Tensor, float]:
    """The mean confidence and the accuracy of each bin that is not empty, and the expected calibration error."""
    bins = (confidences * BINS).long().clamp(max=BINS - 1)
    counts, confidence, accuracy = (
        torch.bincount(bins, weights.double(), BINS) for weights in (torch.ones_like(confidences), confidences, correct)
    )
    used = counts > 0
    error = (confidence - accuracy).abs().sum() / len(bins)
    return (confidence / counts)[used], (accuracy / counts)[used], error.item()
