"""The results of a training: a headline and a table for the terminal, and a self-contained HTML page."""

import datetime
from collections.abc import Sequence
from types import ModuleType

import torch

from .. import _html
from .._bad_input import BadInput
from .._native import build_info
from .._table import table
from .._units import duration, size
from ..classifier.comparison import Result
from ..classifier.program import Program
from ..classifier.tasks import Classes, Task
from . import _classification, _figures, _regression
from ._understood import understood

COLUMNS = ("time per step", "relative", "peak memory", "gradient error")
LEGEND = (
    "Time per step: the median of forward pass, backward pass and optimizer. Relative: to torchnotes. Peak memory: the "
    "largest amount that a step has allocated at any time. Gradient error: the largest, relative to the largest "
    "gradient, compared with torch in float64 for the same parameters and batch, without noise."
)
SEPARATE_STATISTICS = (
    "In torch each process normalizes by the statistics of its own rows, because torch's SyncBatchNorm requires GPUs."
)


def headline(results: Sequence[Result]) -> str:
    """What was achieved, and how fast."""
    ours, torchs = results[:2]
    achieved = details(ours.task).achieved(ours)
    return f"{achieved}; a step took {speed(ours.step_seconds, torchs.step_seconds)}"


def details(task: Task) -> ModuleType:
    """What the report says about the predictions."""
    return _classification if isinstance(task, Classes) else _regression


def speed(ours: float, torchs: float) -> str:
    """The duration, also relative to torch's. Differences of less than 5 % are not worth a headline."""
    faster, slower = f"{torchs / ours:.1f}", f"{ours / torchs:.1f}"
    if faster == "1.0" or slower == "1.0":
        return f"{duration(ours)}, as long as with torch"
    comparison = f"{faster} times as fast as torch" if torchs > ours else f"{slower} times as long as with torch"
    return f"{duration(ours)}, {comparison}"


def header(results: Sequence[Result]) -> list[str]:
    return ["", f"test {results[0].task.metric}", *COLUMNS]


def body(results: Sequence[Result]) -> list[list[str]]:
    return [
        [
            result.name,
            result.task.shown(result.test_score),
            duration(result.step_seconds),
            f"{result.step_seconds / results[0].step_seconds:.2f}",
            size(result.peak_bytes),
            f"{result.gradient_error:.2g}",
        ]
        for result in results
    ]


def notes(program: Program, difference: float) -> list[str]:
    note = f"The gradients of torchnotes and torch differ by at most {difference:.2g} of the largest gradient."
    on_cpu = program.options.device.type == "cpu"
    return [note, SEPARATE_STATISTICS] if program.ranks.size > 1 and on_cpu else [note]


def summary(program: Program, results: Sequence[Result], difference: float) -> str:
    parts = headline(results), table(header(results), body(results)), "\n".join(notes(program, difference))
    return "\n\n".join((*parts, details(program.task).text(program, results)))


def page(program: Program, results: Sequence[Result], difference: float, ending: str) -> str:
    rows, processes = program.rows, program.ranks.size
    count = torch.get_num_threads()
    threads = f"{count} thread{'s' * (count > 1)}{f' in each of {processes} processes' if processes > 1 else ''}"
    options = "\n".join(f"{name:<12}{value}" for name, value in sorted(vars(program.options).items()))
    parts = [
        _html.paragraph(
            f"{rows.source}: {len(rows.x):,} rows, {len(rows.features.features)} features. "
            f"{len(program.networks[0].epochs)} epochs, {datetime.datetime.now():%Y-%m-%d %H:%M}."
        ),
        _html.paragraph(ending, "warning") if ending else "",
        _html.table(header(results), body(results)),
        *map(_html.paragraph, notes(program, difference)),
        _html.paragraph(LEGEND, "quiet"),
        *figures(program, results),
        *details(program.task).html(program, results),
        "<h2>Layers of the torchnotes network</h2>",
        *program.watch.html_parts(),
        "<h2>Data</h2>",
        _html.preformatted(understood(rows, program.parts)),
        "<h2>Options</h2>",
        _html.preformatted(options),
        "<h2>Machine</h2>",
        _html.preformatted(f"{build_info()}\ntorch             {torch.__version__}, {threads}"),
    ]
    return _html.page(f"torchnotes: {rows.source}", parts, headline(results))


def figures(program: Program, results: Sequence[Result]) -> list[str]:
    """Figures, or how to get them."""
    try:
        return [
            _html.figure(_figures.losses(program.networks), "Training and validation."),
            details(program.task).figure(program, results),
        ]
    except BadInput as error:
        return ["<h2>Figures</h2>", _html.paragraph(f"No figures: {error}", "quiet")]
