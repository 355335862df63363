"""Batch normalization."""

from typing import Any

import torch
import torch.nn.functional as torch_F
from torch import Tensor

from ... import functional as F
from ...ops.activations import Activation
from ..accuracy import Bound
from ..operation import Operation, Options, Sample, Shape
from .linear import EVERY_ACTIVATION, activated


def images(shape: Shape) -> Tensor:
    """With a mean."""
    return (2 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()


def per_channel(shape: Shape) -> Tensor:
    return torch.randn(shape[1], dtype=torch.float64).requires_grad_()


def running_mean(shape: Shape) -> Tensor:
    return torch.randn(shape[1], dtype=torch.float64)


def running_var(shape: Shape) -> Tensor:
    return torch.rand(shape[1], dtype=torch.float64) + 0.5


def reference(
    input: Tensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
    inplace: bool = False,
    center_only: bool = False,
) -> Tensor:
    shape, dims = (1, -1, *[1] * (input.dim() - 2)), [0, *range(2, input.dim())]
    mean, var = running_mean, running_var
    if training:
        mean = input.mean(dims)
        var = (input - mean.view(shape)).pow(2).mean(dims)
        n = input.numel() // input.shape[1]
        for running, batch in ((running_mean, mean), (running_var, var * n / (n - 1))):
            if running is not None and input.numel() > 0 and not (center_only and running is running_var):
                running.lerp_(batch.detach().to(running.dtype), momentum)
    z = input - mean.view(shape)
    if not center_only:
        z = z / (var.view(shape) + eps).sqrt()
    z = z if weight is None else z * weight.reshape(shape)
    return activated(z if bias is None else z + bias.reshape(shape), activation, negative_slope)


def _builtin(*args: Any, activation: Activation | None = None, negative_slope: float = 0.01, **of_torch: Any) -> Tensor:
    return activated(torch_F.batch_norm(*args, **of_torch), activation, negative_slope)


def _without_running_statistics(sample: Sample) -> Sample:
    return {**sample, "running_mean": None, "running_var": None} if sample["training"] else sample


EVALUATION: Options = {"training": False}
CHUNKS = ((2, 3, 40_000), (1, 1, 70_000), (40, 3, 30, 30), (300, 2, 7, 7), (9000, 5))  # several to a channel
LENGTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 4097)

NORMALIZATION = {
    "batch_norm": Operation(
        F.batch_norm,
        reference,
        arguments={
            "input": images,
            "running_mean": running_mean,
            "running_var": running_var,
            "weight": per_channel,
            "bias": per_channel,
            "training": True,
        },
        options=(
            {"momentum": 0.3, "eps": 1e-3},
            EVALUATION,
            *({**EVALUATION, **each} for each in EVERY_ACTIVATION),
            {"center_only": True},
            {"center_only": True, "activation": "leaky_relu", "negative_slope": 0.2, **EVALUATION},
            *EVERY_ACTIVATION,
        ),
        more_options=(
            {"inplace": True},
            *({"inplace": True, **each} for each in EVERY_ACTIVATION),
            {"inplace": True, "activation": "leaky_relu", "negative_slope": 0.2, **EVALUATION},
            {"center_only": True, "inplace": True},
            {"center_only": True, "running_var": None},
            {"center_only": True, "running_var": None, **EVALUATION},
            {"running_mean": None, "running_var": None},
            {"weight": None, "bias": None},
            {"bias": None},
            {"weight": None, **EVALUATION},
            {**EVALUATION, "eps": 0.1, "activation": "tanh"},
        ),
        shapes=((5, 3), (4, 3, 7), (6, 3, 1), (3, 2, 4, 5), (2, 5, 17, 9), (2, 3, 2, 3, 4), (2, 1, 300), (1, 4, 33)),
        small=(3, 2, 2),
        laid_out=((3, 4, 5, 6), (6, 35)),
        lengths=tuple(shape for n in LENGTHS for shape in ((4, 2, n), (n + 4, 3), (5, n))) + CHUNKS,
        large=((16, 7, 50, 41), (3, 2, 50_000), (5000, 37)),
        many=(64, 20, 100),
        scales=(1e-10, 1.0, 100.0),
        builtin=_builtin,
        beyond_torch=("center_only", "inplace"),
        opinfo="nn.functional.batch_norm",
        unchecked={"mismatched_operands": "tests/ops/test_batch_norm.py"},
        stateless=_without_running_statistics,
        mutates=("running_mean", "running_var"),
        benchmarked=((32, 64, 56, 56), (32, 256, 28, 28), (64, 32, 112, 112), (4096, 1024), (256, 512)),
        saves=("input", "weight", "bias", "output", "running_mean", "running_var"),
        saves_besides=lambda shape: 2 * shape[1],
        # Inputs of scale 100 saturate a tanh: the gradient of the weight is then a sum of few terms, and errs by 5 eps
        # in the median of 40 samples and by 56 eps in the worst, like torch's.
        bound=Bound(mean=1.25, largest=1.5, roundings=1.0, few=5.0, share=0.02),
    ),
}
