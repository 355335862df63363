"""How good predictions are, in the units of the target."""

import torch
from torch import Tensor

from .tasks import Classes, Numbers, Task, quantity


def metrics(task: Task, output: Tensor, y: Tensor) -> dict[str, float]:
    """The names and values of the errors of a network's output. y is the number of the class, or the target."""
    if isinstance(task, Classes):
        return {"accuracy": task.scores(output, y).double().mean().item()}
    predictions = task.predictions(output)
    if isinstance(task, Numbers):
        errors = predictions[:, 0] - y
        squared = errors.square().mean()
        variance = y.var(correction=0)
        r_squared = {"R²": (1 - squared / variance).item()} if variance > 0 else {}
        return {"RMSE": squared.sqrt().item(), "MAE": errors.abs().mean().item(), **r_squared}
    pinball = task.loss(ours=False)(predictions, y).item()
    inside = task.scores(predictions, y).double().mean().item()
    return {"pinball loss": pinball, task.metric: inside}


def shown(name: str, value: float) -> str:
    return f"{value:.2%}" if name in ("accuracy", "coverage", "below") else quantity(value)


def confusion(task: Classes, output: Tensor, y: Tensor) -> Tensor:
    """How many rows of each class (row) were taken for each class (column)."""
    n = len(task.classes)
    return torch.bincount(y * n + output.argmax(1), minlength=n * n).view(n, n)


def worst_mistakes(output: Tensor, y: Tensor) -> Tensor:
    """The numbers of the rows whose class is wrong, starting with the highest probability."""
    probabilities, classes = output.softmax(1).max(1)
    wrong = (classes != y).nonzero()[:, 0]
    return wrong[probabilities[wrong].argsort(descending=True, stable=True)]


def largest_errors(prediction: Tensor, y: Tensor) -> Tensor:
    """The numbers of the rows, starting with that of the largest error."""
    return (prediction - y).abs().argsort(descending=True, stable=True)
