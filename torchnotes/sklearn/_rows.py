"""Weighted rows: merging equal ones, and splitting off a validation set."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from torch import Tensor


class Rows(NamedTuple):
    x: Tensor
    y: Tensor
    weight: Tensor

    def select(self, index: Any) -> "Rows":
        return Rows(self.x[index], self.y[index], self.weight[index])

    def to(self, device: Any) -> "Rows":
        return Rows(*(tensor.to(device) for tensor in self))


def merged(x: Any, y: Any, weight: Any) -> tuple[Any, Any, Any]:
    """The distinct rows with the sums of their weights, in an order that does not depend on that of the input.

    So a weight of 2 has exactly the effect of a second copy of the row, in batches, noise and validation set as well.
    """
    sides = (np.ascontiguousarray(side.reshape(len(x), -1) + 0) for side in (x, y))  # -0.0 + 0 is 0.0
    bits = np.concatenate([side.view(np.uint8) for side in sides], axis=1)
    _, first, group = np.unique(bits.view(np.dtype((np.void, bits.shape[1]))), return_index=True, return_inverse=True)
    return x[first], y[first], np.bincount(group.ravel(), weight)


def split(rows: Rows, fraction: float, random: np.random.RandomState, stratified: bool) -> tuple[Rows, Rows]:
    """Training and validation rows, with the same share of each class in both if the classes are large enough."""

    def parts(labels: Any) -> Any:
        everything = np.arange(len(rows.x))
        return train_test_split(everything, test_size=fraction, random_state=random, stratify=labels)

    try:
        training, validation = parts(rows.y.numpy() if stratified else None)
    except ValueError:
        training, validation = parts(None)
    return rows.select(training), rows.select(validation)
