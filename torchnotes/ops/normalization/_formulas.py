"""Batch normalization in plain torch operations, for higher derivatives and forward mode, which have no native kernels.

Each function is differentiable to every order, by every argument. The formulas are in csrc/formulas/batch_norm.h.

The reasons are in docs/decisions/higher-derivatives.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...autograd.derivatives import of_tensors, transpose
from ..activations import BY_NUMBER


class Options(NamedTuple):
    """The non-differentiable options, in the order of the native operators."""

    training: bool
    eps: float
    activation: int
    negative_slope: float
    center_only: bool


def activate(z: Tensor, options: Options) -> Tensor:
    return BY_NUMBER[options.activation].plain(z, options.negative_slope)


def of_batch(x: Tensor) -> tuple[Tensor, ...]:
    """The mean and the variance of each channel."""
    variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    return mean, variance


def output(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Any,
    options: Options,
    moments: Callable[[Tensor], tuple[Tensor, ...]] = of_batch,
) -> Tensor:
    """y, normalized with the statistics of the batch in training, otherwise with these `statistics`: mean and
    1 / sqrt(variance + eps).

    In training a constant shift x - k does not change y; if `statistics` are given, shifting by their mean makes it
    more exact.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    of_channels = (-1, *[1] * (x.dim() - 2))
    if options.training:
        if statistics is not None:
            wide = wide - statistics[0].to(wide.dtype).view(of_channels)
        *_, mean, variance = moments(wide)
        statistics = mean, torch.rsqrt(variance + options.eps)
    mean, r = (numbers.to(wide.dtype).view(of_channels) for numbers in statistics)
    z = wide - mean
    if not options.center_only:
        z = z * r
    if weight is not None:
        z = z * weight.reshape(of_channels)
    if bias is not None:
        z = z + bias.reshape(of_channels)
    return activate(z, options).to(x.dtype)


def gradients(
    g: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Any,
    options: Options,
    moments: Callable[[Tensor], tuple[Tensor, ...]] = of_batch,
) -> tuple[Tensor, ...]:
    """The gradients for those of x, weight and bias that are given, where g is the gradient of y."""
    normalized = partial(output, statistics=statistics, options=options, moments=moments)
    function, primals = of_tensors(normalized, (x, weight, bias))
    return transpose(function, *primals)(g)
