"""The program of `train`, from the data to the best state of the networks, without arguments and output."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .._bad_input import BadInput, check_writable
from . import resumption
from .checkpoint import Checkpoint
from .comparison import OURS, Result, contenders, judge
from .data import Rows, Split, load, split
from .files import understood
from .network import Design
from .options import Options
from .ranks import Ranks
from .threads import fastest, set_by_environment
from .training import Contender, Course, Diverged, Pair, Progress, train


@dataclass(frozen=True)
class Files:
    """The paths of the model, the report and the state of the training."""

    model: Path
    report: Path
    training: Path


class Program:
    """A training on all ranks. The first one reads and writes the files."""

    def __init__(self, options: Options, ranks: Ranks) -> None:
        self.ranks = ranks
        self.rows, parts, self.files, (states, threads_before) = ranks.from_first(lambda: prepared(options))
        self._definition = resumption.definition(self.rows, options)
        self.best = untrained(self.rows, parts, options)
        self.counts = [len(y) for _, y in parts]
        training, validation, self.test = (placed(self.best, pair, options.device) for pair in parts)
        self.course = Course(training, validation, options.epochs, options.batch_size, options.seed)
        threads = ranks.from_first(
            lambda: number_of_threads(threads_before, self.best.design, self.course, ranks, options)
        )
        torch.set_num_threads(threads)
        self.options = replace(options, threads=threads)
        self.networks = networks(self.best.design, options, options.compile, ranks)
        for network in self.networks if states else ():
            with understood(self.files.training, resumption.KIND):
                resumption.restore(network, states[network.name])

    @property
    def extent(self) -> tuple[list[str], int, int, int]:
        """The names of the networks, the number of epochs, the steps per epoch, and the number of completed epochs."""
        names = [network.name for network in self.networks]
        return names, self.course.epochs, len(list(self.course.batches(0))), len(self.networks[0].epochs)

    @property
    def learned(self) -> bool:
        """Whether there are results to judge."""
        return all(network.best_state and network.seconds for network in self.networks)

    def train(self, progress: Progress) -> tuple[int, str]:
        """Returns the exit status, and why the training ended early."""
        with progress as shown:
            try:
                with self.ranks.interrupted_together():
                    train(self.networks, self.course, self.ranks, shown, self._keep_model, self._keep_training)
            except KeyboardInterrupt:
                return 130, f"Interrupted after {len(self.networks[0].epochs)} of {self.course.epochs} epochs."
            except Diverged as error:
                return 1, f"{error}: a smaller --lr may help."
        return 0, ""

    def judge(self) -> tuple[list[Result], float]:
        return judge(self.best.design, self.networks, self.course, self.ranks, self.test)

    def _keep_model(self, network: Contender) -> None:
        if self.ranks.first and network.name == OURS:
            state = {name: x.cpu() for name, x in network.best_state.items()}
            replace(self.best, state=state).save(self.files.model)

    def _keep_training(self) -> None:
        if self.ranks.first:
            resumption.save(self.files.training, self._definition, self.networks)


def networks(design: Design, options: Options, compiled: bool, ranks: Ranks) -> list[Contender]:
    return contenders(design, options.optimizer, options.lr, options.seed, options.device, compiled, ranks)


def number_of_threads(before: int | None, design: Design, course: Course, ranks: Ranks, options: Options) -> int:
    """The number that was requested, else that of the resumed training, so that torch's results stay the same, else the
    fastest."""
    if options.threads:
        return options.threads
    if set_by_environment() or options.device.type != "cpu":
        return torch.get_num_threads()
    if before:
        return before
    with torch.random.fork_rng(devices=()):
        rivals = networks(design, options, False, Ranks())
        batch = course.part(next(course.batches(0)), ranks)
        return fastest(lambda: [network.step(batch) for network in rivals])


def prepared(options: Options) -> tuple[Rows, Split, Files, tuple[dict[str, Any], int | None]]:
    """The data, the output files and, if a training is resumed, the networks' states and its number of threads."""
    rows = load(options.data)
    parts = split(rows, options.seed)
    files = Files(*(options.output / name for name in ("model.pt", "report.html", "training.pt")))
    before: tuple[dict[str, Any], int | None] = {}, None
    if options.resume:
        before = resumption.load(files.training, resumption.definition(rows, options), options.epochs)
    make_ready(options.output, files)
    return rows, parts, files, before


def make_ready(folder: Path, files: Files) -> None:
    """Makes sure that the files can be written. Existing ones remain until they are replaced."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: nothing can be written there: {error.strerror}") from error
    for path in (files.model, files.report, files.training):
        check_writable(path)


def untrained(rows: Rows, parts: Split, options: Options) -> Checkpoint:
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
