"""The notes' classifier by torchnotes beside torch's: how they are made, and what they are compared by."""

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import nn
from ._classifier import Design, by_torch, by_torchnotes, copy_parameters, optimizer
from ._memory import peak_bytes
from ._training import Contender, Loss, Pair, accuracy, logits_of, uncompiled

OURS, THEIRS, COMPILED = "torchnotes", "torch", "torch compiled"


@dataclass(frozen=True)
class Result:
    """Of a network in its best state."""

    name: str
    test_accuracy: float
    validation_loss: float
    step_seconds: float  # the median
    peak_bytes: int  # of a step
    gradient_error: float  # the greatest, relative to the greatest gradient, against torch in float64
    confidences: Tensor  # the greatest probability for each row of the test
    right: Tensor  # whether its class was the right one


def contenders(
    design: Design, optimizer_name: str, lr: float, seed: int, device: torch.device, compiled: bool
) -> list[Contender]:
    """Networks with the same parameters."""
    torch.manual_seed(seed)
    start = by_torchnotes(design)
    return [
        Contender(
            name,
            model := network(name, design, start).to(device),
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


def loss_of(name: str) -> torch.nn.Module:
    return nn.CrossEntropyLoss() if name == OURS else torch.nn.CrossEntropyLoss()


def judge(design: Design, trained: list[Contender], batch: Pair, test: Pair) -> tuple[list[Result], float]:
    """The results, and by how much torch's gradients at most differ from ours."""
    gradients = gradients_of(design, trained, batch)
    exact = gradients.pop("exact")
    results = [result(contender, error_of(gradients[contender.name], exact), batch, test) for contender in trained]
    return results, error_of(gradients[OURS], gradients[THEIRS])


def result(contender: Contender, gradient_error: float, batch: Pair, test: Pair) -> Result:
    peak = peak_bytes(lambda: contender.step(*batch), batch[0].device)
    uncompiled(contender.model).load_state_dict(contender.best_state)
    logits = logits_of(uncompiled(contender.model), test[0])
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
    """All with the best parameters of ours and without noise, which would be each network's own; and in float64."""
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
