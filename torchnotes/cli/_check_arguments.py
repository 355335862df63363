"""What the checked operations are called with, made of random numbers."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """The size of a call. Its numbers are drawn on the CPU, the same for every device."""

    rows: int
    columns: int
    scale: float = 1.0

    def normal(self, *shape: int) -> Tensor:
        """With a gradient, as everything that is made of it; `detach` what is to have none."""
        return torch.randn(shape, dtype=torch.float64).requires_grad_()

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64).requires_grad_()

    def integers(self, end: int, *shape: int) -> Tensor:
        return torch.randint(end, shape)


def rows(d: Draw) -> Tensor:
    return d.normal(d.rows, d.columns) * d.scale


def noise(d: Draw) -> Tensor:
    return d.normal(d.rows, d.columns)


def images(d: Draw) -> Tensor:
    """Of as many channels as there are columns; with a mean."""
    return d.normal(d.rows, d.columns, 2) * d.scale + 1


def per_row(d: Draw) -> Tensor:
    return d.uniform(d.rows, 1).detach()


def per_column(d: Draw) -> Tensor:
    return d.normal(d.columns)


def weights(d: Draw) -> Tensor:
    return d.uniform(d.rows, d.columns).detach() + 0.1


def weights_of_columns(d: Draw) -> Tensor:
    return d.uniform(d.columns).detach() + 0.1


def some_rows(d: Draw) -> Tensor:
    return d.normal(d.rows)


def fractions(d: Draw) -> Tensor:
    return d.uniform(d.rows, d.columns)


def labels(d: Draw) -> Tensor:
    """0, 1, and -1 for what is to be ignored; never all of them."""
    y = d.integers(3, d.rows, d.columns).double() - 1
    y[0, 0] = 1
    return y


def classes(d: Draw) -> Tensor:
    return d.integers(d.columns, d.rows)


def some_classes(d: Draw) -> Tensor:
    """One row is to be ignored, where there are others."""
    target = classes(d)
    target[1:2] = -100
    return target


def no_classes(d: Draw) -> Tensor:
    return torch.full_like(classes(d), -100)


def pixels(d: Draw) -> Tensor:
    return d.normal(d.rows, d.columns, 2)


def classes_of_pixels(d: Draw) -> Tensor:
    return d.integers(d.columns, d.rows, 2)


def probabilities(d: Draw) -> Tensor:
    return d.normal(d.rows, d.columns).softmax(1)


def batches(d: Draw) -> Tensor:
    return d.normal(2, d.rows, d.columns)


def layer(d: Draw) -> Tensor:
    return d.normal(2 * d.columns, d.columns) / d.columns**0.5


def bias(d: Draw) -> Tensor:
    return d.normal(2 * d.columns)


def classes_of_layer(d: Draw) -> Tensor:
    return d.integers(2 * d.columns, d.rows)


def weights_of_layer(d: Draw) -> Tensor:
    return d.uniform(2 * d.columns).detach() + 0.1


def probabilities_of_layer(d: Draw) -> Tensor:
    return d.normal(d.rows, 2 * d.columns).softmax(1)


def chunks(d: Draw) -> SimpleNamespace:
    """A quarter of the rows each, as by torch.nn.LinearCrossEntropyOptions, which torch has from 2.13 on."""
    return SimpleNamespace(batch_chunk_size=-(-d.rows // 4))


def quantiles_of_rows(d: Draw) -> Tensor:
    return d.normal(d.rows, 3)


def statistic(d: Draw) -> Tensor:
    return d.uniform(d.columns).detach() + 0.5


def special(d: Draw) -> Tensor:
    inf, nan = float("inf"), float("nan")
    numbers = (0.0, -0.0, 1e-30, 1e-42, 17.0, -17.0, 88.0, -89.0, 710.0, 3e38, inf, -inf, nan)
    return torch.tensor(numbers, dtype=torch.float64).requires_grad_()
