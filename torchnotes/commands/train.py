"""train the notes' classifier, by torchnotes and by torch side by side

Dense layers, each with batch normalisation, an activation and Gaussian dropout, and a softmax cross-entropy learn to
tell classes apart: scikit-learn's digits, or the rows of a file. Both networks start from the same parameters and see
the same batches; they are compared, and the best state of ours is saved for `python -m torchnotes predict`. Ctrl-C
ends the training early and keeps what there is.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ..init import SCHEMES
from . import BadInput
from ._arguments import at_least, device, positive, rate
from ._checkpoint import Checkpoint
from ._classifier import OPTIMIZERS, TORCHS_ACTIVATIONS, Design
from ._comparison import OURS, contenders, judge
from ._data import Rows, Split, load, split
from ._figures import drawing
from ._files import check_writable
from ._progress import progress
from ._report import page, summary
from ._training import Contender, Diverged, Pair, batches, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE", help="a .csv, its last column the class, or a .npz of x and y")
    add("--hidden", type=at_least(1), nargs="+", default=[128, 128], metavar="N", help="sizes of the hidden layers")
    add("--activation", choices=TORCHS_ACTIVATIONS, default="leaky_relu")
    add("--init", choices=("torch", *SCHEMES), default="he", help="how the weights start")
    add("--noise", type=rate, default=0.1, metavar="P", help="the rate of Gaussian dropout")
    add("--optimizer", choices=OPTIMIZERS, default="adam")
    add("--lr", type=positive, help="the learning rate, if not the usual one of the optimizer")
    add("--epochs", type=at_least(1), default=30, metavar="N")
    add("--batch-size", type=at_least(2), default=64, metavar="N")
    add("--device", type=device, default=torch.device("cpu"))
    add("--dtype", choices=("float32", "float64", "bfloat16"), default="float32")
    add("--seed", type=at_least(0), default=0, metavar="N")
    add("--compile", action="store_true", help="beside them torch's network, compiled")
    add("--output", type=Path, default=Path("torchnotes-run"), metavar="FOLDER", help="for the report and the model")


def run(options: argparse.Namespace) -> int:
    drawing()  # what the report needs is missed now rather than in the end
    rows = load(options.data)
    parts = split(rows, options.seed)
    model_path, report_path = made_ready(options.output)
    best = untrained(rows, parts, options)
    training, validation, test = (placed(best, pair, options.device) for pair in parts)
    options.lr = options.lr or OPTIMIZERS[options.optimizer][1]
    networks = contenders(best.design, options.optimizer, options.lr, options.seed, options.device, options.compile)

    def keep(contender: Contender) -> None:
        if contender.name == OURS:
            replace(best, state={name: x.cpu() for name, x in contender.best_state.items()}).save(model_path)

    counts = [len(y) for _, y in parts]
    print(f"{rows.source}: {counts[0]} rows to learn from, {counts[1]} to choose by, {counts[2]} to test")
    status, ending = 0, ""
    steps = options.epochs * len(list(batches(training, options.batch_size, torch.Generator())))
    with progress([network.name for network in networks], options.epochs, steps) as shown:
        try:
            train(networks, training, validation, options.epochs, options.batch_size, options.seed, shown, keep)
        except KeyboardInterrupt:
            status, ending = 130, f"Interrupted after {len(networks[0].epochs)} of {options.epochs} epochs."
        except Diverged as error:
            status, ending = 1, f"{error}: a smaller --lr may help."
    if ending:
        print(ending, file=sys.stderr)
    if not all(network.best_state for network in networks):
        print("Nothing has been learned yet, so that there is nothing to report.", file=sys.stderr)
        return status
    batch = next(batches(training, options.batch_size, torch.Generator().manual_seed(options.seed)))
    results, difference = judge(best.design, networks, batch, test)
    print(f"\n{summary(results, difference)}\n")
    report_path.write_text(page(rows, options, networks, results, difference, ending), encoding="utf-8")
    print(f"report  {report_path}\nmodel   {model_path}: python -m torchnotes predict {model_path}")
    return status


def made_ready(folder: Path) -> tuple[Path, Path]:
    """Where the model and the report will be; those of an earlier training stay until there are new ones."""
    paths = folder / "model.pt", folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: nothing can be written there: {error.strerror}") from error
    for path in paths:
        check_writable(path)
    return paths


def untrained(rows: Rows, parts: Split, options: argparse.Namespace) -> Checkpoint:
    design = Design(
        sizes=(rows.x.shape[1], *options.hidden, len(rows.classes)),
        activation=options.activation,
        noise=options.noise,
        init=options.init,
        dtype=options.dtype,
    )
    x = parts.train[0]
    scale = x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    return Checkpoint(design, {}, x.mean(0), scale, rows.classes, rows.source, options.seed)


def placed(model: Checkpoint, pair: Pair, device: torch.device) -> Pair:
    return model.scaled(pair[0], device), pair[1].to(device)
