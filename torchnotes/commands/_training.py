"""Training of several networks side by side: in turns, on the same batches, each step timed by itself."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._progress import Progress

Loss = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


@dataclass
class Epoch:
    """What is known of a network after some epochs. Variances and norms are those of the layers, in turn."""

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

    def step(self, x: Tensor, y: Tensor) -> Pair:
        self.optimizer.zero_grad()
        output = self.model(x)
        loss = self.loss(output, y)
        loss.backward()
        self.optimizer.step()
        return output.detach(), loss.detach()

    def timed_step(self, x: Tensor, y: Tensor) -> Pair:
        synchronize(x.device)
        start = time.perf_counter()
        results = self.step(x, y)
        synchronize(x.device)
        self.seconds.append(time.perf_counter() - start)
        return results


class Diverged(Exception):
    """A loss is not finite."""


def train(
    contenders: list[Contender],
    training: Pair,
    validation: Pair,
    epochs: int,
    batch_size: int,
    seed: int,
    progress: Progress,
    on_best: Callable[[Contender], None],
) -> None:
    """`on_best` is called whenever a network has its least loss of the validation so far."""
    generator = torch.Generator().manual_seed(seed)
    turn = 0
    for _ in range(epochs):
        sums = {contender.name: torch.zeros(2, dtype=torch.float64) for contender in contenders}
        seen = 0
        for x, y in batches(training, batch_size, generator):
            turn += 1
            seen += len(x)
            for contender in contenders[turn % len(contenders) :] + contenders[: turn % len(contenders)]:
                output, loss = contender.timed_step(x, y)
                right = (output.argmax(1) == y).sum()
                sums[contender.name] += torch.stack((loss.double() * len(x), right.double())).cpu()
                progress.step(contender.name, *(sums[contender.name] / seen).tolist())
        for contender in contenders:
            loss_of_all, share_right = (sums[contender.name] / seen).tolist()
            epoch = measured(contender, loss_of_all, share_right, validation)
            contender.epochs.append(epoch)
            if not math.isfinite(epoch.train_loss):
                raise Diverged(f"the loss of {contender.name} is {epoch.train_loss} in epoch {len(contender.epochs)}")
            if epoch.validation_loss < contender.best_loss:
                contender.best_loss = epoch.validation_loss
                contender.best_state = copy.deepcopy(uncompiled(contender.model).state_dict())
                on_best(contender)
            progress.epoch(contender.name, epoch)


def batches(pair: Pair, size: int, generator: torch.Generator) -> Iterator[Pair]:
    """All rows in a new order, but for a last one alone, whose variance would be 0."""
    for rows in torch.randperm(len(pair[0]), generator=generator).split(size):
        if len(rows) > 1:
            yield pair[0][rows], pair[1][rows]


def measured(contender: Contender, train_loss: float, train_accuracy: float, validation: Pair) -> Epoch:
    x, y = validation
    variances: list[float] = []
    layers = [layer for layer in uncompiled(contender.model).modules() if isinstance(layer, torch.nn.Linear)]
    hooks = [layer.register_forward_hook(lambda *call: variances.append(call[-1].var().item())) for layer in layers]
    logits = logits_of(uncompiled(contender.model), x)
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


def uncompiled(model: torch.nn.Module) -> torch.nn.Module:
    return getattr(model, "_orig_mod", model)


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
