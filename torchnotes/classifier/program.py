"""The program of `train`, from the data to the best state of the networks, without parsing and printing."""

import contextlib
import os
import warnings
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import signal
from .._bad_input import BadInput, check_writable
from . import resumption
from .checkpoint import Checkpoint
from .comparison import OURS, Result, contenders, evaluate
from .data import Pair, Rows, Wish, load, split
from .files import parsing
from .network import Design
from .ranks import Ranks
from .tasks import Classes, Task
from .threads import fastest
from .training import Contender, Diverged, Experiment, Progress, train


class Program:
    """A training on all ranks, with the options of the command. The first rank reads and writes the files."""

    def __init__(self, options: Namespace, ranks: Ranks) -> None:
        self.options, self.ranks = options, ranks
        self.model_path, self.report_path, self.training_path = (
            options.output / name for name in ("model.pt", "report.html", "training.pt")
        )
        self.rows, (states, previous_threads) = ranks.from_first(self._prepare)
        self.task = self.rows.task
        options.noise = _noise(options, self.task)
        self.parts = split(len(self.rows.x), options.seed)
        self._definition = resumption.definition(self.rows, options)
        self._checkpoint = _untrained(self.rows, self.parts.train, options)
        training, validation, self.test = map(self._on_device, self.parts)
        self.experiment = Experiment(training, validation, options.epochs, options.batch_size, options.seed)
        options.threads = ranks.from_first(lambda: self._number_of_threads(previous_threads))
        torch.set_num_threads(options.threads)
        self.networks = self._networks(options.compile, ranks)
        for network in self.networks if states else ():
            with parsing(self.training_path, resumption.KIND):
                resumption.restore(network, states[network.name])

    def _prepare(self) -> tuple[Rows, tuple[dict[str, Any], int | None]]:
        """The data and, if a training is resumed, the networks' states and its number of threads.

        Also makes sure that the output files can be written. Existing ones remain until they are replaced.
        """
        options = self.options
        wish = Wish(options.target, options.task, options.loss, options.quantiles, options.exclude)
        rows = load(options.data, wish, options.seed)
        options.noise = _noise(options, rows.task)
        previous: tuple[dict[str, Any], int | None] = {}, None
        if self.options.resume:
            definition = resumption.definition(rows, options)
            previous = resumption.load(self.training_path, definition, options.epochs)
        folder = options.output
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{folder} is not writable: {error.strerror}") from error
        for path in (self.model_path, self.report_path, self.training_path):
            check_writable(path)
        return rows, previous

    def _on_device(self, part: Tensor) -> Pair:
        x, y, device = self.rows.x[part], self.rows.y, self.options.device
        assert y is not None
        scaled = self.task.scaled(y[part], getattr(torch, self.options.dtype))
        return self._checkpoint.normalized(x, device), scaled.to(device)

    def _networks(self, compiled: bool, ranks: Ranks) -> list[Contender]:
        options = self.options
        arguments = options.optimizer, options.lr, options.seed, options.device
        return contenders(self._checkpoint.design, self.task, *arguments, compiled, ranks)

    def _number_of_threads(self, previous: int | None) -> int:
        """The number that was requested, else that of the resumed training, so that torch's results stay the same, else
        the fastest."""
        if self.options.threads:
            return self.options.threads
        if any(map(os.environ.get, ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))) or self.options.device.type != "cpu":
            return torch.get_num_threads()
        if previous:
            return previous
        with torch.random.fork_rng(devices=()):
            temporary = self._networks(False, Ranks())
            batch = self.experiment.part(next(self.experiment.batches(0)), self.ranks)
            return fastest(lambda: [network.step(batch) for network in temporary])

    @property
    def finished(self) -> bool:
        """Whether every network has completed an epoch and there are results to evaluate."""
        return all(network.best_state and network.seconds for network in self.networks)

    def train(self, progress: Progress) -> tuple[int, str]:
        """Returns the exit status, and why the training ended early."""
        with progress, self._watched(progress):
            try:
                with self.ranks.interrupted_together():
                    train(self.networks, self.experiment, self.ranks, progress, self._save_model, self._save_training)
            except KeyboardInterrupt:
                return 130, f"Interrupted after {len(self.networks[0].epochs)} of {self.options.epochs} epochs."
            except Diverged as error:
                return 1, f"Training diverged: {error}. Try a smaller --lr."
        return 0, ""

    @contextlib.contextmanager
    def _watched(self, progress: Progress) -> Iterator[None]:
        """Measures the layers of torchnotes' network in one step of 10 to 100, some 30 times in a short training.

        Its warnings become part of the progress.
        """
        if not self.ranks.first:
            yield
            return
        ours, steps = self.networks[0], len(list(self.experiment.batches(0)))
        every = min(100, max(10, steps * self.options.epochs // 30))
        with (
            signal.watch(ours.model, ours.optimizer, every=every, first_step=steps * len(ours.epochs)) as self.watch,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("always", signal.SignalWarning)
            others = warnings.showwarning
            warnings.showwarning = lambda message, category, *where, **options: (
                progress.warn(str(message))
                if issubclass(category, signal.SignalWarning)
                else others(message, category, *where, **options)
            )
            yield

    def evaluate(self) -> tuple[list[Result], float]:
        return evaluate(self._checkpoint.design, self.networks, self.experiment, self.ranks, self.test)

    def _save_model(self, network: Contender) -> None:
        if self.ranks.first and network.name == OURS:
            state = {name: x.cpu() for name, x in network.best_state.items()}
            replace(self._checkpoint, state=state).save(self.model_path)

    def _save_training(self) -> None:
        if self.ranks.first:
            resumption.save(self.training_path, self._definition, self.networks)


def _noise(options: Namespace, task: Task) -> float:
    """By default predicted numbers are trained without noise (see docs/decisions/training-command.md)."""
    return (0.1 if isinstance(task, Classes) else 0.0) if options.noise is None else options.noise


def _untrained(rows: Rows, training: Tensor, options: Namespace) -> Checkpoint:
    sizes = (rows.x.shape[1], *options.hidden, rows.task.outputs)
    design = Design(sizes, options.activation, options.noise, options.init, options.dtype)
    x = rows.x[training]
    mean = x.nanmean(0)
    deviation = (x - mean).square().nanmean(0).sqrt()
    # Categories are 0 or 1: a small deviation would make a rare one large.
    varies = deviation > 1e-12 * mean.abs()  # the mean of equal numbers is rounded
    scale = torch.where(rows.features.continuous & varies, deviation, 1)
    return Checkpoint(design, {}, mean, scale, rows.task, rows.features, rows.source, options.seed)
