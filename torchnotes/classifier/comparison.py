"""Creates the notes' network in torchnotes and in torch, and compares them."""

import inspect
import statistics
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .. import nn
from .data import Pair
from .memory import peak_bytes
from .network import Design, by_torch, by_torchnotes, copy_parameters, optimizer
from .ranks import Ranks
from .tasks import Task
from .training import Batch, Contender, Experiment, Loss, output_of, score_of, unwrapped

OURS, TORCH, COMPILED = "torchnotes", "torch", "torch compiled"


@dataclass(frozen=True)
class Result:
    """The results of a network in its best state."""

    name: str
    task: Task
    test_score: float
    validation_loss: float
    step_seconds: float  # the median
    peak_bytes: int  # of a step
    gradient_error: float  # the maximum, relative to the largest gradient, compared with torch in float64
    output: Tensor  # for the test set
    y: Tensor  # the targets of the test set, as the network sees them

    @property
    def confidences(self) -> Tensor:
        """A classifier's highest probability for each row of the test set."""
        return self.output.softmax(1).amax(1)

    @property
    def correct(self) -> Tensor:
        """Whether it is that of the true class."""
        return self.output.argmax(1) == self.y


def contenders(
    design: Design,
    task: Task,
    optimizer_name: str,
    lr: float,
    seed: int,
    device: torch.device,
    compiled: bool,
    ranks: Ranks,
) -> list[Contender]:
    """Networks with the same parameters, on all ranks."""
    torch.manual_seed(seed)
    start = by_torchnotes(design)
    return [
        Contender(
            name,
            model := parallel(network(name, design, start).to(device), ranks),
            optimizer(optimizer_name, lr, model.parameters(), name == OURS),
            task,
            loss_of(name, task),
        )
        for name in (OURS, TORCH, *([COMPILED] if compiled else []))
    ]


def network(name: str, design: Design, like: torch.nn.Module) -> Any:
    model = by_torchnotes(design) if name == OURS else by_torch(design)
    copy_parameters(like, model)
    return torch.compile(model) if name == COMPILED else model


def parallel(model: torch.nn.Module, ranks: Ranks) -> torch.nn.Module:
    """The data-parallel network, which averages the gradients over all ranks.

    Batch normalization uses the statistics of all ranks, except torch's on the CPU, which has none that does.
    """
    if ranks.size == 1:
        return model
    if isinstance(model, nn.MLP):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    elif next(model.parameters()).device.type != "cpu":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # Buffers are not broadcast at every step, because they are the same on all ranks, or intentionally different.
    newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    option: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
    return DistributedDataParallel(model, **option)


def loss_of(name: str, task: Task) -> torch.nn.Module:
    return task.loss(ours=name == OURS)


def evaluate(
    design: Design, trained: list[Contender], experiment: Experiment, ranks: Ranks, test: Pair
) -> tuple[list[Result], float]:
    """The results, and the largest difference between torch's gradients and ours.

    The gradients are those of a full batch. The memory is that of a step with this rank's part of it.
    """
    rows = next(experiment.batches(0))
    x, y = experiment.training
    gradients, exact = _gradients(design, trained, (x[rows], y[rows]))
    part = experiment.part(rows, ranks)
    results = [result(contender, _error(gradients[contender.name], exact), part, test) for contender in trained]
    return results, _error(gradients[OURS], gradients[TORCH])


def result(contender: Contender, gradient_error: float, part: Batch, test: Pair) -> Result:
    peak = peak_bytes(lambda: contender.step(part), part.x.device)
    unwrapped(contender.model).load_state_dict(contender.best_state)
    x, y = test
    output = output_of(contender.model, x)
    return Result(
        contender.name,
        contender.task,
        score_of(contender.task, output, y),
        contender.best_loss,
        statistics.median(contender.seconds),
        peak,
        gradient_error,
        output.double().cpu(),
        y.cpu(),
    )


def _gradients(design: Design, trained: list[Contender], batch: Pair) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients of all networks, and the exact ones, for our best parameters without noise, which would differ."""
    design = replace(design, noise=0.0)
    like = by_torchnotes(design)
    like.load_state_dict(dict(zip(like.state_dict(), trained[0].best_state.values(), strict=True)))
    x, y = batch
    gradients = {c.name: _gradient(network(c.name, design, like), c.loss, x, y) for c in trained}
    exact = network(TORCH, replace(design, dtype="float64"), like)
    y = y.double() if y.is_floating_point() else y
    return gradients, _gradient(exact, loss_of(TORCH, trained[0].task), x.double(), y)


def _gradient(model: torch.nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    model.to(x.device)
    loss(model(x), y).backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def _error(gradient: Tensor, reference: Tensor) -> float:
    return ((gradient - reference).abs().max() / reference.abs().max()).item()
