"""The mistakes of a classifier: the confusion matrix, the recall of each class and the worst mistakes."""

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _html, _table
from ..classifier.comparison import Result
from ..classifier.metrics import confusion, worst_mistakes
from ..classifier.program import Program
from ..classifier.tables import DIGITS
from ..classifier.tasks import Classes
from . import _figures, _rows

ON_TERMINAL = 10  # classes; a matrix of more does not fit
IN_PAGE = 40
CORNER = "true, predicted:"
RECALL = "Rows: the true class. Columns: the predicted one. Recall: the share of the rows of a class that was found."


class Mistake(NamedTuple):
    row: int
    true: str
    predicted: str
    probability: float

    def __str__(self) -> str:
        return f"{self.true:.40}, taken for {self.predicted:.40} with probability {self.probability:.1%}"


def text(program: Program, results: Sequence[Result]) -> str:
    """For the terminal."""
    matrix, task = _confusion(program, results), _task(program)
    parts = [_table.table(*_counted(matrix, task)) if len(task.classes) <= ON_TERMINAL else _confused(matrix, task)]
    if mistakes := _mistakes(program, results[0])[:3]:
        lines = (_rows.line(program, mistake.row, str(mistake)) for mistake in mistakes)
        parts.append("\n".join(("Worst mistakes:", *lines)))
    return "\n\n".join(parts)


def html(program: Program, results: Sequence[Result]) -> list[str]:
    """For the page."""
    matrix, task = _confusion(program, results), _task(program)
    parts = [f"<h2>Predictions of {results[0].name} on the test set</h2>"]
    header, rows = _counted(matrix, task)
    if len(task.classes) <= IN_PAGE:
        parts += [_html.table(header, rows), _html.paragraph(RECALL, "quiet")]
    else:
        recalls = [(row[0], row[-1]) for row in rows]
        parts += [_html.preformatted(_confused(matrix, task)), _html.table(("class", "recall"), recalls)]
    if mistakes := _mistakes(program, results[0]):
        parts += ["<h3>Worst mistakes: the highest probabilities of a wrong class</h3>", _worst(program, mistakes)]
    return parts


def achieved(result: Result) -> str:
    """The beginning of the headline."""
    return f"{result.test_score:.1%} of {len(result.y):,} test rows classified correctly"


def figure(program: Program, results: Sequence[Result]) -> str:
    caption = "On the test set, which neither training nor model selection has used."
    return _html.figure(_figures.calibration(results), caption)


def _task(program: Program) -> Classes:
    assert isinstance(program.task, Classes)
    return program.task


def _confusion(program: Program, results: Sequence[Result]) -> Tensor:
    return confusion(_task(program), results[0].output, results[0].y)


def _counted(matrix: Tensor, task: Classes) -> tuple[list[str], list[list[str]]]:
    header = [CORNER, *(f"{name:.20}" for name in task.classes), "recall"]
    rows = []
    for i, counts in enumerate(matrix.tolist()):
        recall = f"{counts[i] / sum(counts):.0%}" if sum(counts) else "no rows"
        rows.append([f"{task.classes[i]:.20}", *(f"{count:,}" for count in counts), recall])
    return header, rows


def _confused(matrix: Tensor, task: Classes) -> str:
    """The most frequent mistakes, because the matrix would be large."""
    mistakes = matrix.clone().fill_diagonal_(0).flatten()
    counts, places = mistakes.sort(descending=True, stable=True)
    lines = [
        f"{task.classes[place // len(matrix)]:.20} taken for {task.classes[place % len(matrix)]:.20}: {count} rows"
        for count, place in zip(counts[:10].tolist(), places[:10].tolist(), strict=True)
        if count
    ]
    return "\n".join(("Most frequent mistakes:", *lines)) if lines else "No mistakes."


def _mistakes(program: Program, result: Result) -> list[Mistake]:
    task, places = _task(program), program.parts.test
    probabilities, classes = result.output.softmax(1).max(1)
    return [
        Mistake(int(places[i]), task.classes[int(result.y[i])], task.classes[int(classes[i])], probabilities[i].item())
        for i in worst_mistakes(result.output, result.y)[: _rows.LISTED].tolist()
    ]


def _worst(program: Program, mistakes: Sequence[Mistake]) -> str:
    if program.rows.table.source == DIGITS:
        images = (program.rows.x[mistake.row].view(8, 8) for mistake in mistakes)
        return "".join(map(_drawn, images, (_rows.line(program, mistake.row, str(mistake)) for mistake in mistakes)))
    header = ("", "true class", "predicted", "probability", *_rows.names(program))
    rows = [
        (_rows.place(program, row), true, predicted, f"{probability:.1%}", *_rows.values(program, row))
        for row, true, predicted, probability in mistakes
    ]
    return _html.table(header, rows)


def _drawn(pixels: Tensor, description: str) -> str:
    image = base64.b64encode(png(pixels / pixels.max())).decode()
    style = "display: inline-block; width: 9rem; margin: 0 1rem 1rem 0; vertical-align: top"
    return (
        f'<figure style="{style}"><img alt="{escape(description)}" width="96" height="96" '
        f'style="image-rendering: pixelated" src="data:image/png;base64,{image}">'
        f"<figcaption>{escape(description)}</figcaption></figure>"
    )


def png(pixels: Tensor) -> bytes:
    """A grayscale image of brightnesses from 0 to 1."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape
    lines = torch.cat((torch.zeros(height, 1), (255 * pixels).round()), 1).to(torch.uint8)  # 0: a line without a filter
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits of gray
    content = zlib.compress(bytes(lines.flatten().tolist()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
