"""The results of a training: a table, and a self-contained HTML page."""

import datetime
from collections.abc import Sequence
from html import escape
from types import ModuleType

import torch

from .._native import build_info
from .._table import table
from ..classifier.comparison import Result
from ..classifier.program import Program
from ..classifier.tasks import Classes
from . import _classification, _figures, _regression

COLUMNS = ("time per step", "relative", "peak memory", "gradient error")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } img { max-width: 100% } pre { background: #f5f5f5; padding: .8rem;
overflow-x: auto } .note { color: #a33 } figure { margin: 1.5rem 0 } figcaption { color: #555 }
"""
LEGEND = (
    "Time per step: the median of forward pass, backward pass and optimizer. Relative: to torchnotes. Peak memory: the "
    "largest amount that a step has allocated at any time. Gradient error: the largest, relative to the largest "
    "gradient, compared with torch in float64 for the same parameters and batch, without noise."
)
LAYERS = "One line per layer, from light to dark: variances on the validation set, gradients of an epoch's last batch."
SEPARATE_STATISTICS = (
    "In torch each process normalizes by the statistics of its own rows, because torch's SyncBatchNorm requires GPUs."
)


def header(results: Sequence[Result]) -> list[str]:
    return ["", f"test {results[0].task.metric}", *COLUMNS]


def body(results: Sequence[Result]) -> list[list[str]]:
    return [
        [
            result.name,
            result.task.shown(result.test_score),
            f"{1e6 * result.step_seconds:,.0f} µs",
            f"{result.step_seconds / results[0].step_seconds:.2f}",
            f"{result.peak_bytes / 1e3:,.0f} kB",
            f"{result.gradient_error:.2g}",
        ]
        for result in results
    ]


def notes(program: Program, difference: float) -> str:
    note = f"The gradients of torchnotes and torch differ by at most {difference:.2g} of the largest gradient."
    on_cpu = program.options.device.type == "cpu"
    return f"{note}\n{SEPARATE_STATISTICS}" if program.ranks.size > 1 and on_cpu else note


def summary(program: Program, results: Sequence[Result], difference: float) -> str:
    more = details(program).text(program, results)
    return f"{table(header(results), body(results))}\n\n{notes(program, difference)}\n\n{more}"


def details(program: Program) -> ModuleType:
    """What the report says about the predictions."""
    return _classification if isinstance(program.task, Classes) else _regression


def page(program: Program, results: Sequence[Result], difference: float, ending: str) -> str:
    rows, processes = program.rows, program.ranks.size
    threads = f"{torch.get_num_threads()} threads{f' in each of {processes} processes' if processes > 1 else ''}"
    options = "\n".join(f"{name:<12}{value}" for name, value in sorted(vars(program.options).items()))
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body(results))
    figures = (
        (_figures.losses(program.networks), "Training and validation."),
        (_figures.layers(program.networks), LAYERS),
        *details(program).figures(program, results),
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>torchnotes: {escape(rows.source)}</title><style>{STYLE}</style></head><body>
<h1>{escape(rows.source)}: {len(rows.x):,} rows, {len(rows.features.features)} features</h1>
<p>{datetime.datetime.now():%Y-%m-%d %H:%M}, {len(program.networks[0].epochs)} epochs.
<span class="note">{escape(ending)}</span></p>
<table><tr>{"".join(f"<th>{name}</th>" for name in header(results))}</tr>{cells}</table>
<p>{escape(notes(program, difference))}</p><p>{LEGEND}</p>
{"".join(f"<figure>{figure}<figcaption>{caption}</figcaption></figure>" for figure, caption in figures)}
{"".join(details(program).html(program, results))}
<h2>Options</h2><pre>{escape(options)}</pre>
<h2>Machine</h2><pre>{escape(build_info())}
torch             {torch.__version__}, {threads}</pre>
</body></html>
"""
