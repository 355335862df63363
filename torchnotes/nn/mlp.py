"""Multilayer perceptrons."""

import itertools
import operator
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from .._docs import arguments_from
from ..ops.activations import Activation
from .dropout import Dropout, GaussianDropout
from .linear import Initialization, Linear
from .normalization import BatchNorm1d

_EXAMPLE = "MLP((8, 32, 2)) has 8 inputs, a hidden layer of 32 and 2 outputs."


@arguments_from(Linear)
class MLP(torch.nn.Sequential):
    """A multilayer perceptron, a sequence of :class:`~torchnotes.nn.Linear` layers.

    Each hidden layer is followed by batch normalization (which then includes the activation, and replaces the bias),
    the activation, dropout and Gaussian dropout, as far as they are requested. The last layer is a plain
    :class:`~torchnotes.nn.Linear`.

    Args:
        sizes: The sizes of the layers, starting with that of the input.
        activation: The name of an elementwise activation, such as "relu", or None.
        batch_norm: Whether to normalize the hidden layers.
        dropout, gaussian_dropout: The rates; 0 adds no layer.

    Shape:
        The input is ``(*, sizes[0])``, or ``(N, sizes[0])`` with ``batch_norm``; the output ends with ``sizes[-1]``.

    Example:
        >>> nn.MLP((4, 8, 2), "tanh")
        MLP(
          (0): Linear(in_features=4, out_features=8, bias=True, activation='tanh')
          (1): Linear(in_features=8, out_features=2, bias=True)
        )
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Activation | None = "relu",
        *,
        negative_slope: float = 0.01,
        batch_norm: bool = False,
        dropout: float = 0.0,
        gaussian_dropout: float = 0.0,
        init: Initialization = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = _checked(sizes, activation)
        place: dict[str, Any] = dict(device=device, dtype=dtype)
        active: dict[str, Any] = dict(activation=activation, negative_slope=negative_slope)
        layers: list[torch.nn.Module] = []
        *hidden, last = itertools.pairwise(sizes)
        for inputs, outputs in hidden:
            if batch_norm:
                layers += [
                    Linear(inputs, outputs, bias=False, init=init, **place),
                    BatchNorm1d(outputs, **place, **active),
                ]
            else:
                layers.append(Linear(inputs, outputs, init=init, **place, **active))
            if dropout:
                layers.append(Dropout(dropout))
            if gaussian_dropout:
                layers.append(GaussianDropout(gaussian_dropout))
        layers.append(Linear(*last, init=init, **place))
        super().__init__(*layers)

    def __getitem__(self, index: Any) -> Any:
        """A slice is a Sequential, because an MLP is built from sizes."""
        if isinstance(index, slice):
            return torch.nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)


def _checked(sizes: Any, activation: Any) -> list[int]:
    if isinstance(activation, int):  # MLP(8, 2)
        raise TypeError(f"MLP expects all sizes in one sequence: write MLP(({sizes}, {activation})). {_EXAMPLE}")
    try:
        checked = [operator.index(size) for size in sizes]
    except TypeError as error:
        raise TypeError(f"MLP expects a sequence of integers, the sizes. Got: {sizes!r}. {_EXAMPLE}") from error
    if len(checked) < 2:
        raise ValueError(f"MLP expects at least two sizes. Got: {sizes!r}. {_EXAMPLE}")
    if min(checked) < 1:
        raise ValueError(f"MLP expects positive sizes. Got: {sizes!r}. {_EXAMPLE}")
    return checked
