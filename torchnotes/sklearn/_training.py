"""Trains a network on weighted rows, with early stopping."""

import contextlib
import copy
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from ._rows import Rows

_one_at_a_time = threading.Lock()  # all threads share torch's generator


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generator for the CPU, which all our random numbers come from, and restores it afterwards."""
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@dataclass
class Training:
    """A training and its results."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loss_function: Callable[[Tensor, Tensor], Tensor]  # one loss per row
    batch_size: int
    epochs: int
    patience: int
    verbose: bool
    losses: list[float] = field(default_factory=list)  # of each epoch
    validation_losses: list[float] = field(default_factory=list)

    def run(self, training: Rows, validation: Rows | None) -> None:
        """The learning rate falls to 0 along a cosine. With validation rows, stops after `patience` epochs without a
        lower loss and restores the best state."""
        schedule = CosineAnnealingLR(self.optimizer, self.epochs)
        best, best_epoch, best_state = math.inf, 0, {}
        for epoch in range(self.epochs):
            self.losses.append(self.epoch(training))
            self.check_finite(self.losses[-1])
            if validation is not None:
                loss = self.evaluate(validation)
                self.check_finite(loss)
                self.validation_losses.append(loss)
                if loss < best:
                    best, best_epoch, best_state = loss, epoch, copy.deepcopy(self.model.state_dict())
            self.report()
            if validation is not None and epoch - best_epoch >= self.patience:
                break
            schedule.step()
        if best_state:
            self.model.load_state_dict(best_state)

    def epoch(self, rows: Rows) -> float:
        """Returns the mean loss, each batch's before its step."""
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=rows.x.device)
        batches = torch.randperm(len(rows.x)).to(rows.x.device).split(self.batch_size)
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches = batches[:-1]  # batch norm cannot normalize a single row
        for index in batches:
            x, y, weight = rows.select(index)
            self.model.zero_grad()
            loss = (self.loss_function(self.model(x), y) * weight).mean()
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * len(index)
        return total.item() / sum(map(len, batches))

    def evaluate(self, rows: Rows) -> float:
        losses = self.loss_function(outputs(self.model, rows.x), rows.y)
        return ((losses * rows.weight).sum() / rows.weight.sum()).item()

    def check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} in epoch {len(self.losses)}: lower learning_rate_init")

    def report(self) -> None:
        if self.verbose:
            validation = f", validation loss {self.validation_losses[-1]:.4f}" if self.validation_losses else ""
            print(f"epoch {len(self.losses)} of {self.epochs}: loss {self.losses[-1]:.4f}{validation}")


@torch.no_grad()
def outputs(model: torch.nn.Module, x: Tensor) -> Tensor:
    """The output in evaluation mode, computed in parts because all activations might not fit into memory."""
    model.eval()
    return torch.cat([model(part) for part in x.split(2**14)])
