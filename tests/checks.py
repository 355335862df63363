"""Helpers shared by several tests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from torchnotes.ops.activations import ENDINGS
from torchnotes.testing.operations.linear import activated
from torchnotes.testing.running import threads

__all__ = [
    "ACTIVATIONS",
    "activated",
    "outcome",
    "refused_in_place",
    "threads",
    "values",
]
ACTIVATIONS = tuple(ENDINGS)  # that other operations can apply to their output


def values(shape: tuple, dtype: torch.dtype, device: str, scale: float = 2.0) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) * scale).to(device, dtype)


def outcome(function: Callable, *args: Any, **kwargs: Any) -> tuple[type, str]:
    """The type and the first line of the message of the exception that a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 # any exception
        function(*args, **kwargs)
    return type(caught.value), str(caught.value).split("\n")[0]


def refused_in_place(dtype: torch.dtype, device: str) -> list[Callable[[], Tensor]]:
    """Functions that make a tensor of size (3, 4), or a part of one, that torch's operations do not overwrite."""

    def leaf() -> Tensor:
        return values((3, 4), dtype, device).requires_grad_()

    def view_made_in_no_grad() -> Tensor:
        with torch.no_grad():
            return leaf()[1:]

    def inference() -> Tensor:
        with torch.inference_mode():
            return values((3, 4), dtype, device)

    return [
        leaf,
        lambda: leaf()[1:],
        lambda: leaf().detach()[:, :1].expand(3, 4),  # overlapping elements
        lambda: (leaf()[:, :1] * 1).expand(3, 4),
        lambda: (leaf() * 1).unbind()[0],  # an output of a multi-view operation
        view_made_in_no_grad,
        inference,
    ]
