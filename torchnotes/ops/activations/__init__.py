"""The activations that an operation can end with, by name and by number."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch import relu as torch_relu
from torch import sigmoid as torch_sigmoid
from torch import tanh as torch_tanh

from .leaky_relu import LeakyReLUBackward, leaky_relu
from .relu import ReLUBackward, relu
from .sigmoid import SigmoidBackward, sigmoid
from .tanh import TanhBackward, tanh

Formula = Callable[[Tensor, float], Tensor]  # of z and the negative slope


class Named(NamedTuple):
    ours: Formula
    plain: Formula  # torch's own
    backward: Callable[[Tensor, Tensor, float], Tensor]  # g p(y), of g, y and the negative slope
    curved: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None  # v g p'(y); None if y is not saved


ACTIVATIONS = {  # csrc/activations.h numbers them in this order
    None: Named(lambda z, a: z, lambda z, a: z, lambda g, y, a: g),
    "relu": Named(
        lambda z, a: relu(z),
        lambda z, a: torch_relu(z),
        lambda g, y, a: ReLUBackward.apply(g, y),
        ReLUBackward.curved,
    ),
    "leaky_relu": Named(leaky_relu, torch.nn.functional.leaky_relu, LeakyReLUBackward.apply, LeakyReLUBackward.curved),
    "sigmoid": Named(
        lambda z, a: sigmoid(z),
        lambda z, a: torch_sigmoid(z),
        lambda g, y, a: SigmoidBackward.apply(g, y),
        SigmoidBackward.curved,
    ),
    "tanh": Named(
        lambda z, a: tanh(z),
        lambda z, a: torch_tanh(z),
        lambda g, y, a: TanhBackward.apply(g, y),
        TanhBackward.curved,
    ),
}
BY_NUMBER = tuple(ACTIVATIONS.values())
_NUMBERS = {name: i for i, name in enumerate(ACTIVATIONS)}


def checked_activation(activation: str | None) -> int:
    """The number of an activation."""
    if activation not in _NUMBERS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, _NUMBERS))}. Got: {activation!r}")
    return _NUMBERS[activation]


def activated(z: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    return ACTIVATIONS[activation].ours(z, negative_slope)
