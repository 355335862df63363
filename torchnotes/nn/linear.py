"""The linear layer with its activation."""

from typing import Literal

import torch
from torch import Tensor

from .. import functional as F
from ..init import SCHEMES, Scheme, _canonical
from ..ops.activations import Activation, checked_activation
from ._quantization import Unquantized
from ._repr import unusual_options

Initialization = Literal["torch", Scheme]


class Linear(torch.nn.Linear):
    """A linear layer with an optional activation, f(x W^T + b).

    It is :class:`torch.nn.Linear` with more options, computed by :func:`~torchnotes.functional.linear`.

    Args:
        in_features: The number of inputs.
        out_features: The number of outputs.
        bias: Whether there is a learnable b. Otherwise it is 0.
        device, dtype: The device and dtype of the parameters.
        activation: The name of f, an elementwise activation such as "relu", or None.
        negative_slope: The slope of "leaky_relu".
        init: "torch" initializes like :class:`torch.nn.Linear`. A scheme of ``torchnotes.init``, such as "glorot" or
            "xavier" (uniform), "he" or "kaiming" (normal) or "lecun" (normal), fills the weight, with a bias of 0.

    Shape:
        The input is ``(*, in_features)``, the output ``(*, out_features)``.

    Example:
        >>> layer = nn.Linear(3, 2, activation="relu", init="he")
        >>> layer(torch.ones(4, 3)).shape
        torch.Size([4, 2])
    """

    qconfig = Unquantized()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
        init: Initialization = "torch",
    ) -> None:
        checked_activation(activation)
        if init != "torch":
            _canonical(init, "init", "torch")
        self.activation = activation
        self.negative_slope = negative_slope
        self.init = init
        super().__init__(in_features, out_features, bias, device, dtype)

    def reset_parameters(self) -> None:
        if self.init == "torch":
            super().reset_parameters()
            return
        SCHEMES[_canonical(self.init)](self.weight)
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias, activation=self.activation, negative_slope=self.negative_slope)

    def extra_repr(self) -> str:
        return super().extra_repr() + unusual_options(self, dict(activation=None, negative_slope=0.01, init="torch"))
