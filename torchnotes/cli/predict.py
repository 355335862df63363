"""predict with a network that `train` has saved

Prints one line for each row: the class and its probability, the number, or the quantiles. The columns of the table are
found by their names, or by their positions if a file has no header. The target may be missing; if it is there, the
errors are printed as well. A network that was trained on the digits reads them by default, including those that it was
trained on; others require --data.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch
from torch import Tensor

from .._bad_input import BadInput
from ..classifier.checkpoint import load
from ..classifier.data import load_like
from ..classifier.metrics import metrics, shown
from ..classifier.tables import DIGITS
from ..classifier.tasks import Classes, Quantiles, Task
from ._arguments import device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="the model.pt that train has saved")
    parser.add_argument("--data", type=Path, metavar="FILE", help="as for train, but the target may be missing")
    parser.add_argument("--device", type=device, default=torch.device("cpu"))


def run(options: argparse.Namespace) -> int:
    checkpoint = load(options.model)
    task = checkpoint.task
    if options.data is None and checkpoint.source != DIGITS:
        raise BadInput(f"{options.model} was trained on {checkpoint.source}: --data is required")
    rows, labeled = load_like(options.data, checkpoint.features, task)
    output = checkpoint.output(rows.x, options.device).double().cpu()
    for name, count in checkpoint.features.unknown(rows.x).items():
        print(f"{name}: {count} values are not among those of the training, and count as its average", file=sys.stderr)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerows(lines(task, output, checkpoint.features.target))
    if rows.y is not None and len(rows.y):
        found = {name: shown(name, value) for name, value in metrics(task, output[labeled], rows.y).items()}
        of = f"{task.scores(output[labeled], rows.y).sum().item()} of " if isinstance(task, Classes) else ""
        errors = ", ".join(f"{name} {value}" for name, value in found.items())
        print(f"{errors} ({of}{len(rows.y)} rows)", file=sys.stderr)
    return 0


def lines(task: Task, output: Tensor, target: str) -> list[list[str]]:
    """The header and the rows of the predictions."""
    if isinstance(task, Classes):
        probabilities, classes = output.softmax(1).max(1)
        pairs = zip(classes.tolist(), probabilities.tolist(), strict=True)
        return [["class", "probability"], *([task.classes[number], f"{p:.4f}"] for number, p in pairs)]
    header = [f"{target} {quantile:g}" for quantile in task.quantiles] if isinstance(task, Quantiles) else [target]
    return [header, *([f"{value:.6g}" for value in row] for row in task.predictions(output).tolist())]
