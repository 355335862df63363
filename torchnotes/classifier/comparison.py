"""Creates the notes' classifier in torchnotes and in torch, and compares them."""

import dataclasses
import inspect
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .. import nn
from .memory import peak_bytes
from .network import Design, by_torch, by_torchnotes, copy_parameters, optimizer
from .ranks import Ranks
from .training import Batch, Contender, Course, Loss, Pair, accuracy, bare, logits_of

OURS, THEIRS, COMPILED = "torchnotes", "torch", "torch compiled"
STATISTICS_APART = "By torch each process normalises by the statistics of its own rows: it has no others on the CPU."


@dataclass(frozen=True)
class Result:
    """The results of a network in its best state."""

    name: str
    test_accuracy: float
    validation_loss: float
    step_seconds: float  # the median
    peak_bytes: int  # of a step
    gradient_error: float  # the maximum, relative to the largest gradient, compared with torch in float64
    confidences: Tensor  # the highest probability for each row of the test set
    right: Tensor  # whether its class is the right one


def contenders(
    design: Design, optimizer_name: str, lr: float, seed: int, device: torch.device, compiled: bool, ranks: Ranks
) -> list[Contender]:
    """Networks with the same parameters, on all ranks."""
    torch.manual_seed(seed)
    start = by_torchnotes(design)
    return [
        Contender(
            name,
            model := parallel(network(name, design, start).to(device), ranks),
            optimizer(optimizer_name, lr, model.parameters(), name == OURS),
            loss_of(name),
        )
        for name in (OURS, THEIRS, *([COMPILED] if compiled else []))
    ]


def network(name: str, design: Design, like: torch.nn.Module) -> Any:
    if name == OURS:
        model = by_torchnotes(design)
        copy_parameters(like, model)
        return model
    model = by_torch(design)
    copy_parameters(like, model)
    return torch.compile(model) if name == COMPILED else model


def parallel(model: torch.nn.Module, ranks: Ranks) -> torch.nn.Module:
    """The data-parallel network, which averages the gradients over all ranks."""
    if ranks.size == 1:
        return model
    # Buffers are not broadcast at every step, because they are the same on all ranks, or intentionally different.
    newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    sent: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
    return DistributedDataParallel(synchronized(model), **sent)


def synchronized(model: torch.nn.Module) -> torch.nn.Module:
    """Converts batch normalizations to use the statistics of all ranks."""
    if isinstance(model, nn.MLP):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    on_cpu = next(model.parameters()).device.type == "cpu"
    return model if on_cpu else torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)


def loss_of(name: str) -> torch.nn.Module:
    return nn.CrossEntropyLoss() if name == OURS else torch.nn.CrossEntropyLoss()


def judge(
    design: Design, trained: list[Contender], course: Course, ranks: Ranks, test: Pair
) -> tuple[list[Result], float]:
    """The results, and the largest difference between torch's gradients and ours.

    The gradients are those of a full batch. The memory is that of a step with this rank's part of it.
    """
    rows = next(course.batches(0))
    x, y = course.training
    gradients = gradients_of(design, trained, (x[rows], y[rows]))
    exact = gradients.pop("exact")
    part = course.part(rows, ranks)
    results = [result(contender, error_of(gradients[contender.name], exact), part, test) for contender in trained]
    return results, error_of(gradients[OURS], gradients[THEIRS])


def result(contender: Contender, gradient_error: float, part: Batch, test: Pair) -> Result:
    peak = peak_bytes(lambda: contender.step(part), part.x.device)
    bare(contender.model).load_state_dict(contender.best_state)
    logits = logits_of(bare(contender.model), test[0])
    confidences, classes = logits.double().softmax(1).max(1)
    return Result(
        contender.name,
        accuracy(logits, test[1]),
        contender.best_loss,
        statistics.median(contender.seconds),
        peak,
        gradient_error,
        confidences.cpu(),
        (classes == test[1]).cpu(),
    )


def gradients_of(design: Design, trained: list[Contender], batch: Pair) -> dict[str, Tensor]:
    """The gradients of all networks and in float64, with our best parameters. Without noise, which would differ."""
    quiet = dataclasses.replace(design, noise=0.0)
    like = by_torchnotes(quiet)
    like.load_state_dict(dict(zip(like.state_dict(), trained[0].best_state.values(), strict=True)))
    x, y = batch
    gradients = {c.name: gradient(network(c.name, quiet, like), c.loss, x, y) for c in trained}
    precise = dataclasses.replace(quiet, dtype="float64")
    gradients["exact"] = gradient(network(THEIRS, precise, like), loss_of(THEIRS), x.double(), y)
    return gradients


def gradient(model: torch.nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    model.to(x.device)
    loss(model(x), y).backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def error_of(gradient: Tensor, reference: Tensor) -> float:
    return ((gradient - reference).abs().max() / reference.abs().max()).item()
