"""The activations that an operation can end with, by name and by number."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ._activation import Slope
from .leaky_relu import LeakyReLUBackward, leaky_relu
from .relu import ReLUBackward, relu
from .sigmoid import SigmoidBackward, sigmoid
from .tanh import TanhBackward, tanh

Formula = Callable[[Tensor, float], Tensor]  # of z and the negative slope


class Named(NamedTuple):
    ours: Formula
    plain: Formula  # torch's own
    slope: type[Slope] | None  # of the output; None: it is 1


ACTIVATIONS = {  # csrc/activations.h counts them in this order
    None: Named(lambda z, a: z, lambda z, a: z, None),
    "relu": Named(lambda z, a: relu(z), lambda z, a: torch.relu(z), ReLUBackward),
    "leaky_relu": Named(leaky_relu, torch.nn.functional.leaky_relu, LeakyReLUBackward),
    "sigmoid": Named(lambda z, a: sigmoid(z), lambda z, a: torch.sigmoid(z), SigmoidBackward),
    "tanh": Named(lambda z, a: tanh(z), lambda z, a: torch.tanh(z), TanhBackward),
}
BY_NUMBER = tuple(ACTIVATIONS.values())
_NUMBERS = {name: i for i, name in enumerate(ACTIVATIONS)}


def checked_activation(activation: str | None) -> int:
    """The number of an activation."""
    if activation not in _NUMBERS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, _NUMBERS))}. Got: {activation!r}")
    return _NUMBERS[activation]
