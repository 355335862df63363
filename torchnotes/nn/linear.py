"""The dense layer with its activation, and networks of it."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import init as torch_init

from .. import functional as F
from ..ops._activations import checked_activation
from ._repr import unusual_options
from .dropout import GaussianDropout
from .normalization import BatchNorm1d

_INITS = {  # of the weight, in the notes' rows 22 and 23; the bias starts at 0
    "glorot": torch_init.xavier_uniform_,
    "he": lambda weight: torch_init.kaiming_normal_(weight, nonlinearity="relu"),
    "lecun": lambda weight: torch_init.kaiming_normal_(weight, nonlinearity="linear"),
}


class Linear(torch.nn.Linear):
    """f(x W^T + b), as torch.nn.Linear followed by an activation, with a choice of how the parameters start:

    init   "torch" (as torch.nn.Linear's), "glorot" (uniform, of variance 2/(in + out)), "he" (normal, 2/in) or "lecun"
           (normal, 1/in)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
        negative_slope: float = 0.01,
        init: str = "torch",
    ) -> None:
        checked_activation(activation)
        if init not in ("torch", *_INITS):
            raise ValueError(f"init must be one of {', '.join(map(repr, ('torch', *_INITS)))}. Got: {init!r}")
        self.activation = activation
        self.negative_slope = negative_slope
        self.init = init
        super().__init__(in_features, out_features, bias, device, dtype)

    def reset_parameters(self) -> None:
        if self.init == "torch":
            super().reset_parameters()
            return
        _INITS[self.init](self.weight)
        if self.bias is not None:
            torch_init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias, activation=self.activation, negative_slope=self.negative_slope)

    def extra_repr(self) -> str:
        return super().extra_repr() + unusual_options(self, dict(activation=None, negative_slope=0.01, init="torch"))


class MLP(torch.nn.Sequential):
    """Dense layers of the given sizes, the input's first, each but the last with what follows it.

    After each hidden layer: batch normalisation (then with the activation in it, and no bias before it) if wanted, the
    activation, dropout, Gaussian dropout. The last layer is a plain Linear.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | None = "relu",
        *,
        negative_slope: float = 0.01,
        batch_norm: bool = False,
        dropout: float = 0.0,
        gaussian_dropout: float = 0.0,
        init: str = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if len(sizes) < 2:
            raise ValueError(f"MLP takes the sizes of at least two layers, the input's first. Got: {list(sizes)}")
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
                layers.append(torch.nn.Dropout(dropout))
            if gaussian_dropout:
                layers.append(GaussianDropout(gaussian_dropout))
        layers.append(Linear(*last, init=init, **place))
        super().__init__(*layers)

    def __getitem__(self, index: Any) -> Any:
        """Some of the layers are a Sequential: an MLP is made of sizes."""
        if isinstance(index, slice):
            return torch.nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)
