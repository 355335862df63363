"""Trains several networks alternately on the same batches, and times each step.

Random numbers depend only on the seed and the epoch, and noise also on the rank. A training can therefore be resumed
after any epoch without the state of a generator, and by any number of ranks.

The reasons are in docs/decisions/training-command.md.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .data import Pair
from .ranks import Ranks
from .tasks import Task

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Epoch:
    """The results of a network after an epoch."""

    train_loss: float
    train_score: float
    validation_loss: float
    validation_score: float


class Batch(NamedTuple):
    """A rank's part of a batch. The weights make the mean of the ranks' losses the mean over all rows."""

    x: Tensor
    y: Tensor
    weight: float


@dataclass
class Contender:
    name: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    task: Task
    loss: Loss
    seconds: list[float] = field(default_factory=list)  # of each step
    epochs: list[Epoch] = field(default_factory=list)
    best_loss: float = math.inf
    best_state: dict[str, Tensor] = field(default_factory=dict)

    def step(self, batch: Batch) -> Pair:
        """The output and the loss before the step."""
        self.optimizer.zero_grad()
        output = self.model(batch.x)
        loss = self.loss(output, batch.y)
        loss.backward(torch.full_like(loss, batch.weight))
        self.optimizer.step()
        return output.detach(), loss.detach()

    def timed_step(self, batch: Batch) -> Tensor:
        """The sums of the losses and of the scores before the step."""
        synchronize(batch.x.device)
        start = time.perf_counter()
        output, loss = self.step(batch)
        synchronize(batch.x.device)
        self.seconds.append(time.perf_counter() - start)
        if len(output) == 0:  # the mean would be NaN
            return torch.zeros(2)
        return torch.stack((loss.double() * len(output), self.task.scores(output, batch.y).sum())).cpu()

    def evaluate(self, train_loss: float, train_score: float, validation: Pair) -> Epoch:
        x, y = validation
        output = output_of(self.model, x).double()
        exact = y.double() if y.is_floating_point() else y
        loss, score = self.task.loss(ours=False)(output, exact).item(), score_of(self.task, output, exact)
        return Epoch(train_loss, train_score, loss, score)


class Progress:
    """Reports the progress of a training. The base class shows nothing."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *reason: Any) -> None:
        pass

    def step(self, contender: Contender, loss: float, score: float) -> None:
        """Called after a step of a network with its mean loss and score in this epoch."""

    def epoch(self, contender: Contender) -> None:
        """Called after all steps of an epoch."""

    def warn(self, text: str) -> None:
        """Called the first time that something goes wrong in a layer of torchnotes' network."""


class Diverged(Exception):
    """A loss is not finite."""


@dataclass(frozen=True)
class Experiment:
    """The data and the length of a training."""

    training: Pair
    validation: Pair
    epochs: int
    batch_size: int
    seed: int

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """The row numbers in random order. Drops a last batch of a single row, whose variance would be 0."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
        batches = torch.randperm(len(self.training[0]), generator=generator).split(self.batch_size)
        return (rows for rows in batches if len(rows) > 1)

    def part(self, rows: Tensor, ranks: Ranks) -> Batch:
        x, y = self.training
        own = ranks.part(rows)
        return Batch(x[own], y[own], len(own) * ranks.size / len(rows))


def train(
    contenders: list[Contender],
    experiment: Experiment,
    ranks: Ranks,
    progress: Progress,
    on_best: Callable[[Contender], None],
    on_epoch: Callable[[], None],
) -> None:
    """Calls `on_best` whenever a network reaches its lowest validation loss so far, and `on_epoch` after every epoch of
    all networks."""
    for number in range(len(contenders[0].epochs), experiment.epochs):
        torch.manual_seed(derived_seed(experiment.seed, number, ranks.rank))
        sums = torch.zeros(len(contenders), 2, dtype=torch.float64)  # of losses and of scores
        seen = 0
        for turn, rows in enumerate(experiment.batches(number), number):
            batch = experiment.part(rows, ranks)
            seen += len(rows)
            of_batch = torch.zeros_like(sums)
            for i in range(len(contenders)):  # each takes its turn at being first
                place = (i + turn) % len(contenders)
                of_batch[place] = contenders[place].timed_step(batch)
            sums += ranks.total(of_batch)
            for contender, (loss, mean) in zip(contenders, (sums / seen).tolist(), strict=True):
                progress.step(contender, loss, contender.task.score(mean))
        for contender, (loss, mean) in zip(contenders, (sums / seen).tolist(), strict=True):
            score = contender.task.score(mean)
            epoch = ranks.from_first(partial(contender.evaluate, loss, score, experiment.validation))
            contender.epochs.append(epoch)
            for kind, value in (("loss", epoch.train_loss), ("validation loss", epoch.validation_loss)):
                if not math.isfinite(value):
                    raise Diverged(f"the {kind} of {contender.name} is {value} in epoch {number + 1}")
            if epoch.validation_loss < contender.best_loss:
                contender.best_loss = epoch.validation_loss
                contender.best_state = copy.deepcopy(unwrapped(contender.model).state_dict())
                on_best(contender)
            progress.epoch(contender)
        on_epoch()


def derived_seed(*what: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "little")


def output_of(model: torch.nn.Module, x: Tensor) -> Tensor:
    model = unwrapped(model).eval()
    with torch.no_grad():
        output = model(x)
    model.train()
    return output


def score_of(task: Task, output: Tensor, y: Tensor) -> float:
    return task.score(task.scores(output, y).double().mean().item())


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The network without the wrappers of torch.compile and data parallelism."""
    model = model.module if isinstance(model, DistributedDataParallel) else model
    return getattr(model, "_orig_mod", model)


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
