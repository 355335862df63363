"""The interface of a record of `python -m torchnotes check`, and the record of differentiable operations."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..testing import derivatives, values
from ..testing.accuracy import Figures
from ..testing.operation import Operation


@dataclass(frozen=True)
class Setup:
    device: torch.device
    seed: int


class Record:
    """The checks of a public function, `ours`.

    A check returns its figures, or None if there is nothing to check. It raises an AssertionError if it fails.
    """

    def gradcheck(self, ours: Callable, setup: Setup) -> Figures | None:
        return None

    def second_order(self, ours: Callable, setup: Setup) -> Figures | None:
        return None

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures | None:
        return None

    def agreement(self, ours: Callable, setup: Setup) -> Figures | None:
        return None


@dataclass(frozen=True)
class Differentiable(Record):
    """The fast checks of torchnotes.testing."""

    operation: Operation

    def gradcheck(self, ours: Callable, setup: Setup) -> Figures:
        return derivatives.check_gradient(self._of(ours), setup.device)

    def second_order(self, ours: Callable, setup: Setup) -> Figures:
        return derivatives.check_second_derivative(self._of(ours), setup.device)

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures | None:
        return values.check_error(self._of(ours), dtype, setup.device)

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        operation = self._of(ours)
        for dtype in (torch.float64, torch.float32):
            values.check_values(operation, dtype, setup.device)
            values.check_special_values(operation, dtype, setup.device)
        return {"options": len(values.every(operation))}

    def _of(self, ours: Callable[..., Any]) -> Operation:
        return replace(self.operation, function=ours)
