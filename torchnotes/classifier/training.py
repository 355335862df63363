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

from .ranks import Ranks

Loss = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


@dataclass
class Epoch:
    """The results of a network after an epoch. There is one variance and one norm per layer."""

    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    variances: list[float]
    gradient_norms: list[float]


@dataclass
class Contender:
    name: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    seconds: list[float] = field(default_factory=list)  # of each step
    epochs: list[Epoch] = field(default_factory=list)
    best_loss: float = math.inf
    best_state: dict[str, Tensor] = field(default_factory=dict)

    def step(self, batch: "Batch") -> Pair:
        self.optimizer.zero_grad()
        output = self.model(batch.x)
        loss = self.loss(output, batch.y)
        loss.backward(torch.full_like(loss, batch.weight))
        self.optimizer.step()
        return output.detach(), loss.detach()

    def timed_step(self, batch: "Batch") -> Pair:
        synchronize(batch.x.device)
        start = time.perf_counter()
        results = self.step(batch)
        synchronize(batch.x.device)
        self.seconds.append(time.perf_counter() - start)
        return results


class Batch(NamedTuple):
    """A rank's part of a batch. The weights make the mean of the ranks' losses the mean over all rows."""

    x: Tensor
    y: Tensor
    weight: float


class Progress:
    """Reports the progress of a training. The base class shows nothing."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *reason: Any) -> None:
        pass

    def step(self, name: str, loss: float, accuracy: float) -> None:
        """Called after a step of a network with its mean loss and accuracy in this epoch."""

    def epoch(self, name: str, figures: Epoch) -> None:
        """Called after all steps of an epoch."""


class Diverged(Exception):
    """A loss is not finite."""


@dataclass(frozen=True)
class Course:
    """The data and the length of a training."""

    training: Pair
    validation: Pair
    epochs: int
    batch_size: int
    seed: int

    def batches(self, epoch: int) -> Iterator[Tensor]:
        order = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
        return batches(len(self.training[0]), self.batch_size, order)

    def part(self, rows: Tensor, ranks: Ranks) -> Batch:
        x, y = self.training
        own = ranks.part(rows)
        return Batch(x[own], y[own], len(own) * ranks.size / len(rows))


def train(
    contenders: list[Contender],
    course: Course,
    ranks: Ranks,
    progress: Progress,
    on_best: Callable[[Contender], None],
    on_epoch: Callable[[], None],
) -> None:
    """Calls `on_best` whenever a network reaches its lowest validation loss so far, and `on_epoch` after every epoch of
    all networks."""
    for number in range(len(contenders[0].epochs), course.epochs):
        torch.manual_seed(derived_seed(course.seed, number, ranks.rank))
        sums = torch.zeros(len(contenders), 2, dtype=torch.float64)  # losses, and right answers
        seen = 0
        for turn, rows in enumerate(course.batches(number), number):
            batch = course.part(rows, ranks)
            seen += len(rows)
            of_batch = torch.zeros_like(sums)
            for place in in_turns(len(contenders), turn):
                of_batch[place] = learned(contenders[place], batch)
            sums += ranks.total(of_batch)
            for contender, (loss, right) in zip(contenders, (sums / seen).tolist(), strict=True):
                progress.step(contender.name, loss, right)
        for contender, (loss, right) in zip(contenders, (sums / seen).tolist(), strict=True):
            epoch = ranks.from_first(partial(measured, contender, loss, right, course.validation))
            contender.epochs.append(epoch)
            for kind, value in (("loss", epoch.train_loss), ("validation loss", epoch.validation_loss)):
                if not math.isfinite(value):
                    raise Diverged(f"the {kind} of {contender.name} is {value} in epoch {len(contender.epochs)}")
            if epoch.validation_loss < contender.best_loss:
                contender.best_loss = epoch.validation_loss
                contender.best_state = copy.deepcopy(bare(contender.model).state_dict())
                on_best(contender)
            progress.epoch(contender.name, epoch)
        on_epoch()


def derived_seed(*what: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "little")


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The row numbers in random order. Drops a last batch of a single row, whose variance would be 0."""
    for rows in torch.randperm(count, generator=generator).split(size):
        if len(rows) > 1:
            yield rows


def in_turns(count: int, turn: int) -> list[int]:
    return [(place + turn) % count for place in range(count)]


def learned(contender: Contender, batch: Batch) -> Tensor:
    """Does a step, and returns the sum of the losses and the number of right answers before it."""
    output, loss = contender.timed_step(batch)
    if len(output) == 0:  # the mean would be NaN
        return torch.zeros(2)
    right = (output.argmax(1) == batch.y).sum()
    return torch.stack((loss.double() * len(output), right.double())).cpu()


def measured(contender: Contender, train_loss: float, train_accuracy: float, validation: Pair) -> Epoch:
    x, y = validation
    variances: list[float] = []
    layers = [layer for layer in bare(contender.model).modules() if isinstance(layer, torch.nn.Linear)]
    hooks = [layer.register_forward_hook(lambda *call: variances.append(call[-1].var().item())) for layer in layers]
    logits = logits_of(bare(contender.model), x)
    for hook in hooks:
        hook.remove()
    return Epoch(
        train_loss,
        train_accuracy,
        torch.nn.functional.cross_entropy(logits.double(), y).item(),
        accuracy(logits, y),
        variances,
        [layer.weight.grad.norm().item() for layer in layers if layer.weight.grad is not None],
    )


def logits_of(model: torch.nn.Module, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        logits = model(x)
    model.train()
    return logits


def accuracy(logits: Tensor, y: Tensor) -> float:
    return (logits.argmax(1) == y).double().mean().item()


def bare(model: torch.nn.Module) -> torch.nn.Module:
    """The network without the wrappers of torch.compile and data parallelism."""
    model = model.module if isinstance(model, DistributedDataParallel) else model
    return getattr(model, "_orig_mod", model)


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
