"""The results of a training: a table, and a self-contained HTML page."""

import datetime
import html
from collections.abc import Sequence

import torch

from .._native import build_info
from .._table import table
from ..classifier.comparison import Result
from ..classifier.data import Rows
from ..classifier.options import Options
from ..classifier.training import Contender
from . import _figures

HEADER = ("", "test accuracy", "time per step", "relative", "peak memory", "error of gradients")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } img { max-width: 100% } pre { background: #f5f5f5; padding: .8rem;
overflow-x: auto } .note { color: #a33 } figure { margin: 1.5rem 0 } figcaption { color: #555 }
"""
ABOUT = (
    "Time per step: the median; forward, backward and optimizer. Relative: to torchnotes. Peak memory: the most that a "
    "step has allocated at a time. Error of gradients: the greatest, relative to the greatest gradient, for the same "
    "parameters and batch without noise, against torch in float64."
)

LAYERS = (
    "Layer by layer, the later the darker: variances of the validation rows, gradients of the last batch of an epoch."
)


def body(results: Sequence[Result]) -> list[list[str]]:
    return [
        [
            result.name,
            f"{result.test_accuracy:.2%}",
            f"{1e6 * result.step_seconds:,.0f} µs",
            f"{result.step_seconds / results[0].step_seconds:.2f}",
            f"{result.peak_bytes / 1e3:,.0f} kB",
            f"{result.gradient_error:.2g}",
        ]
        for result in results
    ]


def difference_of(difference: float) -> str:
    return f"The gradients of torchnotes and torch differ by at most {difference:.2g} of the greatest."


def summary(results: Sequence[Result], difference: float, remark: str) -> str:
    return "\n".join((table(HEADER, body(results)), "", difference_of(difference), *([remark] if remark else [])))


def page(
    rows: Rows,
    options: Options,
    contenders: Sequence[Contender],
    results: Sequence[Result],
    difference: float,
    remark: str,
    ending: str,
    processes: int,
) -> str:
    threads = f"{torch.get_num_threads()} threads{f' in each of {processes} processes' if processes > 1 else ''}"
    chosen = "\n".join(f"{name:<12}{value}" for name, value in sorted(vars(options).items()))
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in body(results))
    figures = (
        (_figures.losses(contenders), "Training and validation."),
        (_figures.layers(contenders), LAYERS),
        (_figures.calibration(results), "On the rows that nobody has learned from or chosen by."),
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>torchnotes: {html.escape(rows.source)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(rows.source)}: {len(rows.x):,} rows, {rows.x.shape[1]} features, {len(rows.classes)} classes</h1>
<p>{datetime.datetime.now():%Y-%m-%d %H:%M}, {len(contenders[0].epochs)} epochs.
<span class="note">{html.escape(ending)}</span></p>
<table><tr>{"".join(f"<th>{name}</th>" for name in HEADER)}</tr>{cells}</table>
<p>{difference_of(difference)} {html.escape(remark)}</p><p>{ABOUT}</p>
{"".join(f"<figure>{figure}<figcaption>{caption}</figcaption></figure>" for figure, caption in figures)}
<h2>Options</h2><pre>{html.escape(chosen)}</pre>
<h2>Machine</h2><pre>{html.escape(build_info())}
torch             {torch.__version__}, {threads}</pre>
</body></html>
"""
