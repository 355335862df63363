"""What a network learns: classes, numbers, or quantiles of numbers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import nn

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Classes:
    """Cross-entropy. The target is the number of the class."""

    classes: tuple[str, ...]

    loss_name = "cross-entropy"
    metric = "accuracy"

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def loss(self, ours: bool) -> torch.nn.Module:
        return nn.CrossEntropyLoss() if ours else torch.nn.CrossEntropyLoss()

    def scaled(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return y

    def scores(self, output: Tensor, y: Tensor) -> Tensor:
        """One number per row. The score is computed from their mean."""
        return output.argmax(1) == y

    def score(self, mean: float) -> float:
        return mean

    def shown(self, score: float) -> str:
        return f"{score:.2%}"


@dataclass(frozen=True)
class Numbers:
    """Squared error. The network learns (target - mean) / scale."""

    mean: float
    scale: float

    loss_name = "squared error"
    metric = "RMSE"  # the root of the mean, not of the sum, of squares: it does not grow with the number of rows
    outputs = 1

    def loss(self, ours: bool) -> torch.nn.Module:
        return nn.MSELoss() if ours else torch.nn.MSELoss()

    def scaled(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return ((y - self.mean) / self.scale).to(dtype)[:, None]

    def predictions(self, output: Tensor) -> Tensor:
        """A column in the units of the target."""
        return output.double() * self.scale + self.mean

    def scores(self, output: Tensor, y: Tensor) -> Tensor:
        return (output.double() - y).square()[:, 0]

    def score(self, mean: float) -> float:
        return math.sqrt(mean) * self.scale

    def shown(self, score: float) -> str:
        return quantity(score)


@dataclass(frozen=True)
class Quantiles:
    """Pinball loss, with one output per quantile."""

    mean: float
    scale: float
    quantiles: tuple[float, ...]  # in ascending order

    loss_name = "pinball loss"

    @property
    def metric(self) -> str:
        return "coverage" if len(self.quantiles) > 1 else "below"

    @property
    def outputs(self) -> int:
        return len(self.quantiles)

    @property
    def nominal(self) -> float:
        """The share of targets that lies between the outermost quantiles, or below the only one."""
        first, last = self.quantiles[0], self.quantiles[-1]
        return last - first if self.outputs > 1 else first

    def loss(self, ours: bool) -> torch.nn.Module:
        return nn.PinballLoss(self.quantiles) if ours else Pinball(self.quantiles)

    def scaled(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return ((y - self.mean) / self.scale).to(dtype)

    def predictions(self, output: Tensor) -> Tensor:
        """One column per quantile, in the units of the target. Sorting crossed quantiles never increases the loss."""
        return output.double().sort(1)[0] * self.scale + self.mean

    def scores(self, output: Tensor, y: Tensor) -> Tensor:
        output = output.sort(1)[0]
        below = y <= output[:, -1]
        return below & (y >= output[:, 0]) if self.outputs > 1 else below

    def score(self, mean: float) -> float:
        return mean

    def shown(self, score: float) -> str:
        return f"{score:.2%}"


def quantity(value: float) -> str:
    """A number with 4 significant digits."""
    return f"{float(f'{value:.4g}'):,.10g}"


Task: TypeAlias = Classes | Numbers | Quantiles


class Pinball(torch.nn.Module):
    """The pinball loss in torch's operations, because torch has no module for it."""

    def __init__(self, quantiles: Sequence[float]) -> None:
        super().__init__()
        self.quantiles = quantiles

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        tau, r = input.new_tensor(self.quantiles), target[:, None] - input
        return torch.maximum(tau * r, (tau - 1) * r).mean()


def saved(task: Task) -> dict[str, Any]:
    return {"kind": type(task).__name__, **asdict(task)}


def restored(content: dict[str, Any]) -> Task:
    kinds: dict[str, type[Task]] = {kind.__name__: kind for kind in (Classes, Numbers, Quantiles)}
    task = kinds[content["kind"]](**{name: value for name, value in content.items() if name != "kind"})
    if not isinstance(task, Classes) and not (0 < task.scale < math.inf and math.isfinite(task.mean)):
        raise ValueError
    return task
