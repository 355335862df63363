"""The errors of predicted numbers and quantiles, in the units of the target."""

from collections.abc import Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from .. import _html, _table
from ..classifier.comparison import Result
from ..classifier.metrics import largest_errors, metrics, shown
from ..classifier.program import Program
from ..classifier.tasks import Classes, Quantiles, quantity
from . import _figures, _rows

SQUARED = "RMSE: the root of the mean squared error. MAE: the mean of |error|. R²: the share of the variance explained."


def text(program: Program, results: Sequence[Result]) -> str:
    """For the terminal."""
    worst = "\n".join(
        _rows.line(program, row, f"{quantity(predicted)} instead of {quantity(true)}")
        for row, true, predicted in _largest(program, results[0])[:3]
    )
    return f"{_table.table(*_errors(program, results))}\n\n{_legend(program)}\n\nLargest errors:\n{worst}"


def html(program: Program, results: Sequence[Result]) -> list[str]:
    """For the page."""
    header = ("", "true", "predicted", "error", *_rows.names(program))
    rows = [
        (
            _rows.place(program, row),
            *map(quantity, (true, predicted, predicted - true)),
            *_rows.values(program, row),
        )
        for row, true, predicted in _largest(program, results[0])
    ]
    return [
        f"<h2>Errors of {escape(program.rows.features.target)} on the test set</h2>",
        _html.table(*_errors(program, results)),
        _html.paragraph(_legend(program), "quiet"),
        f"<h3>Largest errors of {results[0].name}</h3>",
        _html.table(header, rows),
    ]


def achieved(result: Result) -> str:
    """The beginning of the headline."""
    task, rows = result.task, f"{len(result.y):,} test rows"
    if isinstance(task, Quantiles):
        return f"{result.test_score:.1%} of {rows} {_where(task)} ({task.nominal:.0%} expected)"
    return f"{task.metric} {task.shown(result.test_score)} on {rows}"


def figure(program: Program, results: Sequence[Result]) -> str:
    name, target = results[0].name, f"{program.rows.features.target:.30}"
    predicted, y = _predicted(program, results[0])

    def scatter(axes: Any) -> None:
        span = [y.min().item(), y.max().item()]
        axes.plot(span, span, color=_html.GREY, linewidth=0.8, linestyle=":")
        axes.plot(y.tolist(), predicted.tolist(), "o", markersize=3, alpha=0.5, color=_figures.COLORS[name])
        axes.set(xlabel=f"true {_plain(target)}", ylabel="predicted", title="predictions (test)")

    def errors(axes: Any) -> None:
        axes.hist((predicted - y).tolist(), 30, color=_figures.COLORS[name])
        axes.set(xlabel="predicted - true", ylabel="rows", title="errors (test)")

    correlation = torch.corrcoef(torch.stack((predicted, y)))[0, 1].item()
    middle, largest = (predicted - y).abs().quantile(0.5).item(), (predicted - y).abs().max().item()
    images = [
        _figures.image(f"Predicted by true values of {target}. Their correlation is {correlation:.3f}.", scatter),
        _figures.image(
            f"Histogram of the errors. Half of them are smaller than {quantity(middle)}, the largest is "
            f"{quantity(largest)}.",
            errors,
        ),
    ]
    return _html.figure(images, "On the test set. Predictions on the dotted line are right.")


def _plain(text: str) -> str:
    """For matplotlib, to which dollars mean formulas."""
    return text.replace("$", r"\$")


def _where(task: Quantiles) -> str:
    if task.outputs == 1:
        return f"below the quantile {task.quantiles[0]:g}"
    return f"between the quantiles {task.quantiles[0]:g} and {task.quantiles[-1]:g}"


def _largest(program: Program, result: Result) -> list[tuple[int, float, float]]:
    """The numbers of rows, their targets and predictions, starting with the largest error."""
    predicted, y = _predicted(program, result)
    worst = largest_errors(predicted, y)[: _rows.LISTED]
    return list(zip(program.parts.test[worst].tolist(), y[worst].tolist(), predicted[worst].tolist(), strict=True))


def _errors(program: Program, results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    y = _targets(program)
    found = {result.name: metrics(program.task, result.output, y) for result in results}
    rows = [[name, *(shown(*item) for item in values.items())] for name, values in found.items()]
    return ["", *found[results[0].name]], rows


def _legend(program: Program) -> str:
    task = program.task
    if not isinstance(task, Quantiles):
        return SQUARED
    return f"{task.metric.capitalize()}: the share of targets {_where(task)}, of which {task.nominal:.0%} are expected."


def _targets(program: Program) -> Tensor:
    assert program.rows.y is not None
    return program.rows.y[program.parts.test]


def _predicted(program: Program, result: Result) -> tuple[Tensor, Tensor]:
    """The predicted number, or the quantile in the middle, and the target of each row."""
    task = program.task
    assert not isinstance(task, Classes)
    return task.predictions(result.output)[:, task.outputs // 2], _targets(program)
