"""A linear layer with its activation."""

from typing import Any

import torch
import torch.nn.functional as torch_F
from torch import Tensor

from ... import functional as F
from ...ops.activations import ACTIVATIONS, Activation
from ..makers import normal
from ..operation import Operation, Options, Shape

EVERY_ACTIVATION: tuple[Options, ...] = tuple(
    {"activation": name, **({"negative_slope": 0.2} if info.takes_slope else {})} for name, info in ACTIVATIONS.items()
)
OUTPUTS = {1: 17, 2: 64, 5: 130, 7: 15, 16: 16, 33: 31, 60: 70, 64: 1, 257: 200, 300: 200}  # of so many inputs; else 3


def activated(z: Tensor, activation: Activation | None = None, negative_slope: float = 0.01) -> Tensor:
    """torch's activations by name."""
    if activation is None:
        return z
    info = ACTIVATIONS[activation]
    return info.builtin(z, negative_slope) if info.takes_slope else info.builtin(z)


def _outputs(shape: Shape) -> int:
    return OUTPUTS.get(shape[-1], 3)


def weight(shape: Shape) -> Tensor:
    return torch.randn(_outputs(shape), shape[-1], dtype=torch.float64).requires_grad_()


def bias(shape: Shape) -> Tensor:
    return torch.randn(_outputs(shape), dtype=torch.float64).requires_grad_()


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, **activation: Any) -> Tensor:
    return activated(torch_F.linear(input, weight, bias), **activation)


def _penalty(input: Tensor, weight: Tensor, sigma: Any) -> Tensor:
    squares = weight.square().view(-1, weight.shape[-1])
    return 0.5 * sigma**2 * torch.einsum("...k,ok->...", input.square(), squares)


LINEAR = {
    "linear": Operation(
        F.linear,
        _linear,
        arguments={"input": normal, "weight": weight, "bias": bias},
        options=({}, *EVERY_ACTIVATION),
        more_options=(
            {"bias": None},
            {"bias": None, "activation": "tanh"},
            {"activation": "leaky_relu", "negative_slope": -0.3},
        ),
        shapes=((4,), (1, 4), (5, 4), (0, 4), (2, 3, 4), (2, 0, 3, 4), (2, 3, 1, 2, 4), (4, 0), (4100, 2)),
        small=(2, 3),
        laid_out=((2, 3, 5, 4), (6, 9)),
        lengths=tuple((rows, n) for n in (1, 2, 3, 5, 7, 15, 16, 17, 33, 64) for rows in (1, 31, 33, 200)),
        large=((3000, 1), (70, 1)),  # with one input the forward product has no sums
        products=("gradient of weight",),
        many=(500, 60),
        builtin=_linear,
        opinfo="nn.functional.linear",
        saves=("input", "weight", "output"),
        benchmarked=((256, 1024, 1024), (8192, 128, 128), (64, 64, 128)),  # rows, inputs, outputs
        unchecked={"mismatched_operands": "tests/ops/test_linear.py"},
        gradient_strides=False,
    ),
    "gaussian_dropout_penalty": Operation(
        F.gaussian_dropout_penalty,
        _penalty,
        arguments={"input": normal, "weight": weight, "sigma": 0.3},
        builtin=_penalty,
        options=({}, {"weight": lambda shape: torch.randn(shape[-1], dtype=torch.float64).requires_grad_()}),
        shapes=((4,), (5, 4), (2, 3, 4)),
        laid_out=((6, 9),),
        lengths=(),
        large=(),
        gradient_strides=False,
        unchecked={
            "other_dtypes": "it is torch's einsum",
            "traced_operators": "it has no operator",
            "mismatched_operands": "it has no operator",
        },
    ),
}
