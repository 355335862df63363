"""The elementwise activations."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as torch_F
from torch import Tensor

from ... import functional as F
from ..accuracy import ALONE
from ..makers import normal
from ..operation import Operation, Sample, Shape

SIZES = (0.0, 1e-30, 1e-42, 1.0, 9.5, 17.0, 88.0, 89.0, 104.0, 710.0, 1e4, 3e38, float("inf"))
EXTREMES = (*(sign * size for size in SIZES for sign in (1, -1)), float("nan"))
EVERY_SCALE = (1e-3, 0.1, 1.0, 3.0, 10.0, 30.0)


def extremes(shape: Shape) -> Tensor:
    points = torch.tensor(EXTREMES, dtype=torch.float64)
    return points.repeat(shape[0] // len(points) + 1)[: shape[0]].requires_grad_()


def away_from_zero(sample: Sample) -> Sample:
    x = sample["input"].detach()
    return {**sample, "input": (x + 0.1 * torch.where(x > 0, 1.0, -1.0)).requires_grad_()}


def _sigmoid(input: Tensor) -> Tensor:
    e = torch.exp(-input.abs())
    return torch.where(input >= 0, 1, e) / (1 + e)


def _rectified(input: Tensor, inplace: bool = False) -> Tensor:
    return torch.where(input <= 0, 0, input)


def _leaky(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return torch.where(input > 0, input, negative_slope * input)


def _softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    z = beta * input
    return torch.where(z > threshold, input, torch.logaddexp(z, torch.zeros_like(z)) / beta)


def _tanh(input: Tensor) -> Tensor:
    size = input.abs()
    return torch.sign(input) * -torch.expm1(-2 * size) / (1 + torch.exp(-2 * size))


_ELEMENTWISE: dict[str, Any] = dict(
    arguments={"input": normal},
    special=({"input": extremes},),
    elementwise=True,
    batched=lambda options: ("input",),
    many=(200_000,),
    scales=EVERY_SCALE,
    saves=("output",),
    benchmarked=tuple((n,) for n in (64, 10_000, 100_000, 1_000_000, 4_000_000, 10_000_000, 32_000_000)),
)

ACTIVATIONS = {
    "sigmoid": Operation(F.sigmoid, _sigmoid, builtin=torch.sigmoid, opinfo="sigmoid", **_ELEMENTWISE),
    "tanh": Operation(F.tanh, _tanh, builtin=torch.tanh, opinfo="tanh", **_ELEMENTWISE),
    "relu": Operation(
        F.relu,
        _rectified,
        options=({}, {"inplace": True}),
        builtin=torch_F.relu,
        opinfo="nn.functional.relu",
        smooth=away_from_zero,
        **_ELEMENTWISE,
    ),
    "leaky_relu": Operation(
        F.leaky_relu,
        _leaky,
        options=(
            {},
            *({"negative_slope": slope} for slope in (0.3, 0.0, 1, 1.5, -0.3, True)),
            {"negative_slope": 0.3, "inplace": True},
        ),
        builtin=torch_F.leaky_relu,
        opinfo="nn.functional.leaky_relu",
        smooth=away_from_zero,
        **{**_ELEMENTWISE, "saves": ("input", "output"), "many": (20_000,)},
    ),
    "softplus": Operation(
        F.softplus,
        _softplus,
        options=({}, {"beta": 2, "threshold": 2.5}, {"beta": 0.25}),  # b x is exact; the error of others is mostly its
        more_options=({"beta": 3}, {"beta": -1.5}, {"beta": True, "threshold": True}),
        builtin=torch_F.softplus,
        opinfo="nn.functional.softplus",
        output_bound=replace(ALONE, mean=1.1, largest=1.1),  # scalar code errs like torch's, at other points
        **{**_ELEMENTWISE, "saves": ("input",)},
    ),
}
