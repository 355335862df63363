"""The table of activations, and what other operations need in order to end with one."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch import relu as torch_relu
from torch import sigmoid as torch_sigmoid
from torch import tanh as torch_tanh

from .leaky_relu import LeakyReLUBackward, leaky_relu, leaky_relu_of_saved_input
from .relu import ReLUBackward, relu
from .sigmoid import SigmoidBackward, sigmoid
from .softplus import SoftplusOfOutput, scripted_softplus, softplus
from .tanh import TanhBackward, tanh


class ActivationInfo(NamedTuple):
    """Modules, conversion, benchmarks, commands and tests find everything about an activation here."""

    module: str  # its class in torch.nn and in torchnotes.nn
    function: Callable[..., Tensor]
    builtin: Callable[..., Tensor]  # torch's own
    of_output: Any = None  # a Slope whose saved tensor is the output, for operations that end with it; None: none can
    takes_slope: bool = False  # whether its argument after the input is negative_slope
    fixed: Mapping[str, float] = MappingProxyType({})  # the other options of operations that end with it
    scripted: Callable[..., Tensor] | None = None  # for torch.jit.script, if the function of torch.nn.functional is C++
    overwritable: bool = False  # whether torch's saves its input, so that its result may be overwritten
    of_saved_input: Callable[..., Tensor] | None = None  # saves its input like torch's, if `function` does not


Activation = Literal["relu", "leaky_relu", "sigmoid", "tanh", "softplus"]  # the names below, for type checkers
ACTIVATIONS: dict[Activation, ActivationInfo] = {  # csrc/formulas/activations.h numbers them in this order, from 1
    "relu": ActivationInfo("ReLU", relu, torch_relu, ReLUBackward),
    "leaky_relu": ActivationInfo(
        "LeakyReLU",
        leaky_relu,
        torch.nn.functional.leaky_relu,
        LeakyReLUBackward,
        takes_slope=True,
        overwritable=True,
        of_saved_input=leaky_relu_of_saved_input,
    ),
    "sigmoid": ActivationInfo("Sigmoid", sigmoid, torch_sigmoid, SigmoidBackward),
    "tanh": ActivationInfo("Tanh", tanh, torch_tanh, TanhBackward),
    "softplus": ActivationInfo(
        "Softplus",
        softplus,
        torch.nn.functional.softplus,
        SoftplusOfOutput,
        fixed={"beta": 1, "threshold": 20},
        scripted=scripted_softplus,
        overwritable=True,
    ),
}


class Ending(NamedTuple):
    """An activation as the end of another operation. The last argument of all but `curved` is the negative slope."""

    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]  # torch's own
    backward: Callable[..., Tensor] | None = None  # g p(y), of g and y
    curved: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None  # v g p'(y); None if y is not saved

    @property
    def fused(self) -> bool:
        """Whether kernels can end with it."""
        return self.backward is not None


def _ending(info: ActivationInfo) -> Ending:
    def with_slope(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return function if info.takes_slope else lambda *arguments: function(*arguments[:-1])

    ours, plain = with_slope(info.function), with_slope(info.builtin)
    if info.of_output is None:
        return Ending(ours, plain)
    return Ending(ours, plain, with_slope(info.of_output.apply), info.of_output.curved)


_IDENTITY = Ending(lambda z, a: z, lambda z, a: z, lambda g, y, a: g)
ENDINGS: dict[Activation | None, Ending] = {
    None: _IDENTITY,
    **{name: _ending(info) for name, info in ACTIVATIONS.items()},
}
BY_NUMBER = tuple(ENDINGS.values())
_NUMBERS = {name: i for i, name in enumerate(ENDINGS)}


def checked_activation(activation: Activation | None) -> int:
    """The number of an activation."""
    if activation not in _NUMBERS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, _NUMBERS))}. Got: {activation!r}")
    return _NUMBERS[activation]


def activated(z: Tensor, activation: Activation | None, negative_slope: float) -> Tensor:
    return ENDINGS[activation].ours(z, negative_slope)
