"""train the notes' classifier, by torchnotes and by torch side by side

Dense layers, each with batch normalisation, an activation and Gaussian dropout, and a softmax cross-entropy learn to
tell classes apart: scikit-learn's digits, or the rows of a file. Both networks start from the same parameters and see
the same batches; they are compared, and the best state of ours is saved for `python -m torchnotes predict`. Ctrl-C
ends the training early and keeps what there is; --resume goes on after the last epoch that is complete. On the CPU a
few steps of throwaway networks are timed first, for the number of threads, unless --threads or OMP_NUM_THREADS says it.

`torchrun --nproc-per-node N -m torchnotes train` divides every batch among N processes.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..init import SCHEMES
from . import BadInput, _resumption
from ._arguments import at_least, device, positive, rate, seconds
from ._checkpoint import Checkpoint
from ._classifier import OPTIMIZERS, TORCHS_ACTIVATIONS, Design
from ._comparison import OURS, STATISTICS_APART, contenders, judge
from ._data import Rows, Split, load, split
from ._figures import drawing
from ._files import check_writable, understood
from ._progress import Silence, progress
from ._ranks import Ranks, device_of_rank, launched, ranks_on
from ._report import page, summary
from ._threads import MOST, fastest, set_by_environment, threads
from ._training import Contender, Course, Diverged, Pair, train

TIMEOUT = 600  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="a .csv, its last column the class, or a .npz of x and y",
    )
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
    add(
        "--resume",
        action="store_true",
        help="go on with the training of that folder, by as many processes as there are",
    )
    add("--threads", type=at_least(1, MOST), metavar="N", help="to compute with, if not as many as are fastest")
    add("--timeout", type=seconds, metavar="SECONDS", help="of torchrun's processes for each other, if not 600")


@dataclass(frozen=True)
class Files:
    """Where the model, the report and the state of the training will be."""

    model: Path
    report: Path
    training: Path


def run(options: argparse.Namespace) -> int:
    if options.timeout and not launched():
        raise BadInput("--timeout is for processes that torchrun starts: there is but one")
    options.device = device_of_rank(options.device)
    options.lr = options.lr or OPTIMIZERS[options.optimizer][1]
    with ranks_on(options.device, options.timeout or TIMEOUT) as ranks, threads(torch.get_num_threads()):
        return run_on(ranks, options)


def run_on(ranks: Ranks, options: argparse.Namespace) -> int:
    rows, parts, files, (states, threads_before) = ranks.from_first(lambda: prepared(options))
    best = untrained(rows, parts, options)
    training, validation, test = (placed(best, pair, options.device) for pair in parts)
    course = Course(training, validation, options.epochs, options.batch_size, options.seed)
    options.threads = ranks.from_first(lambda: number_of_threads(threads_before, best.design, course, ranks, options))
    torch.set_num_threads(options.threads)
    networks = contenders(
        best.design, options.optimizer, options.lr, options.seed, options.device, options.compile, ranks
    )
    for network in networks if states else ():
        with understood(files.training, _resumption.KIND):
            _resumption.restore(network, states[network.name])
    if ranks.first:
        counts = [len(y) for _, y in parts]
        print(f"{rows.source}: {counts[0]} rows to learn from, {counts[1]} to choose by, {counts[2]} to test")
        print(f"threads: {options.threads}")
    status, ending = trained(networks, course, ranks, best, _resumption.definition(rows, options), files)
    if ending and ranks.first:
        print(ending, file=sys.stderr)
    if not all(network.best_state and network.seconds for network in networks):
        if ranks.first:
            print("Nothing has been learned yet, so that there is nothing to report.", file=sys.stderr)
        return status
    results, difference = judge(best.design, networks, course, ranks, test)
    if ranks.first:
        remark = STATISTICS_APART if ranks.size > 1 and options.device.type == "cpu" else ""
        print(f"\n{summary(results, difference, remark)}\n")
        report = page(rows, options, networks, results, difference, remark, ending, ranks.size)
        files.report.write_text(report, encoding="utf-8", errors="replace")
        print(f"report  {files.report}\nmodel   {files.model}: python -m torchnotes predict {files.model}")
    return status


def trained(
    networks: list[Contender],
    course: Course,
    ranks: Ranks,
    best: Checkpoint,
    defined: dict[str, Any],
    files: Files,
) -> tuple[int, str]:
    """The exit status, and what has ended the training early."""

    def keep_model(network: Contender) -> None:
        if ranks.first and network.name == OURS:
            replace(best, state={name: x.cpu() for name, x in network.best_state.items()}).save(files.model)

    def keep_training() -> None:
        if ranks.first:
            _resumption.save(files.training, defined, networks)

    steps, done = len(list(course.batches(0))), len(networks[0].epochs)
    names = [network.name for network in networks]
    with progress(names, course.epochs, steps, done) if ranks.first else Silence() as shown:
        try:
            with ranks.interrupted_together():
                train(networks, course, ranks, shown, keep_model, keep_training)
        except KeyboardInterrupt:
            return 130, f"Interrupted after {len(networks[0].epochs)} of {course.epochs} epochs."
        except Diverged as error:
            return 1, f"{error}: a smaller --lr may help."
    return 0, ""


def number_of_threads(
    before: int | None, design: Design, course: Course, ranks: Ranks, options: argparse.Namespace
) -> int:
    """As many as one says, or as many as before, for the bits of torch's network, or as many as are fastest."""
    if options.threads:
        return options.threads
    if set_by_environment() or options.device.type != "cpu":
        return torch.get_num_threads()
    if before:
        return before
    with torch.random.fork_rng(devices=()):
        networks = contenders(design, options.optimizer, options.lr, options.seed, options.device, False, Ranks())
        batch = course.part(next(course.batches(0)), ranks)
        return fastest(lambda: [network.step(batch) for network in networks])


def prepared(options: argparse.Namespace) -> tuple[Rows, Split, Files, tuple[dict[str, Any], int | None]]:
    """What is read, and where is written; of a training that is resumed the networks' states and number of threads."""
    drawing()  # what the report needs is missed now rather than in the end
    rows = load(options.data)
    parts = split(rows, options.seed)
    files = Files(*(options.output / name for name in ("model.pt", "report.html", "training.pt")))
    before: tuple[dict[str, Any], int | None] = {}, None
    if options.resume:
        before = _resumption.load(files.training, _resumption.definition(rows, options), options.epochs)
    make_ready(options.output, files)
    return rows, parts, files, before


def make_ready(folder: Path, files: Files) -> None:
    """For what will be written; what an earlier training has written stays until there is something new."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: nothing can be written there: {error.strerror}") from error
    for path in (files.model, files.report, files.training):
        check_writable(path)


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
