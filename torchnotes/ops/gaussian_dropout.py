"""Gaussian dropout. The formulas and their derivation: csrc/formulas/gaussian_dropout.h.

y = d x,    d ~ N(1, sigma^2),    dy/dx = d
"""

import math
from typing import Any

import torch
from torch import Tensor

from .._docs import arguments_from
from ..autograd.function import has_proxy, show, watched
from ._random import Generator, Noise, draws_natively, noisy, random_key
from .dropout import dropout

torch.library.register_fake("torchnotes::gaussian_dropout", lambda x, key, mean, sigma, shard=None: torch.empty_like(x))
torch.library.register_fake("torchnotes::gaussian_dropout_", lambda x, key, mean, sigma, shard=None: None)


_kernel = torch.ops.torchnotes.gaussian_dropout.default


class GaussianDropout(Noise):
    """d x"""

    kernel = _kernel

    @staticmethod
    def forward(x: Tensor, key: Tensor, mean: float, sigma: float) -> Tensor:
        return _kernel(x, key, mean, sigma)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        (key,) = ctx.saved_tensors
        return GaussianDropout.apply(g, key, *ctx.numbers), None, None, None


_times_normal = noisy(GaussianDropout, "gaussian_dropout")


def deviation(p: float | None, sigma: float | None) -> float:
    """The standard deviation of the noise, given directly or as the rate of dropout that has the same variance."""
    if isinstance(p, Tensor) or isinstance(sigma, Tensor):
        raise TypeError(
            "Gaussian dropout expects p or sigma as a number, got a Tensor (nn.VariationalDropout learns it)"
        )
    if sigma is not None:
        if p is not None:
            raise ValueError(f"Gaussian dropout expects either p or sigma, got p={p} and sigma={sigma}")
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma of Gaussian dropout must be non-negative and finite, got {sigma}")
        return sigma
    p = 0.5 if p is None else p
    if not 0 <= p < 1:
        raise ValueError(f"the rate of Gaussian dropout must be at least 0 and less than 1, got {p}")
    return math.sqrt(p / (1 - p))


def times_normal(
    input: Tensor, mean: float, sigma: float, inplace: bool = False, generator: Generator = None
) -> Tensor:
    """input times N(mean, sigma^2)."""
    if not isinstance(input, Tensor):
        raise TypeError(f"gaussian_dropout(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
    if draws_natively(input, generator):
        return _times_normal(input, random_key(input, generator), mean, sigma, inplace=inplace)
    if watched():
        return show(times_normal, input, mean, sigma, inplace, generator)
    dtype = input.dtype.to_real() if input.is_complex() else input.dtype
    if generator is None:
        noise = torch.randn_like(input, dtype=dtype)
    else:
        noise = torch.empty_like(input, dtype=dtype).normal_(generator=generator)  # type: ignore[arg-type] # its error
    return input.mul_(mean + sigma * noise) if inplace else input * (mean + sigma * noise)


@arguments_from(dropout)
def gaussian_dropout(
    input: Tensor,
    p: float | None = None,
    training: bool = True,
    inplace: bool = False,
    *,
    sigma: float | None = None,
    generator: Generator = None,
) -> Tensor:
    """Multiplies each element by noise from N(1, sigma^2) in training.

    Saves only a key of 16 bytes for the backward pass, which regenerates the noise. A DTensor gets the noise of the
    full tensor, if all ranks have the same seed.

    Args:
        input: A tensor of any shape.
        p: A rate, 0.5 by default, that gives the noise the variance of dropout, sigma^2 = p/(1 - p), as in Keras.
        training: Returns ``input`` unchanged if False.
        inplace: Whether to overwrite ``input`` with the result.
        sigma: The standard deviation of the noise, in place of ``p``.

    Returns:
        A tensor of the shape of ``input``.

    Example:
        >>> F.gaussian_dropout(torch.ones(4), sigma=0.1, generator=torch.tensor([0, 1]))
        tensor([1.1068, 1.0405, 0.9970, 0.8584])
    """
    if has_proxy(input):
        return show(gaussian_dropout, input, p, training, inplace, sigma=sigma, generator=generator)
    sigma = deviation(p, sigma)
    if isinstance(input, Tensor) and (not training or sigma == 0 or input.numel() == 0):
        return input
    return times_normal(input, 1.0, sigma, inplace, generator)


def gaussian_dropout_penalty(input: Tensor, weight: Tensor, sigma: float | Tensor) -> Tensor:
    """Computes what Gaussian dropout before a linear layer adds to the expected squared error.

    Noise of deviation sigma on x raises the expectation of 1/2 (t - w x)^2 by 1/2 sigma^2 sum_k w_k^2 x_k^2. With
    several outputs this is their sum.

    Args:
        input: The tensor x.
        weight: The weight W of the layer.
        sigma: The standard deviation of the noise.

    Shape:
        ``input`` is ``(*, in_features)``, ``weight`` is ``(in_features)`` or ``(out_features, in_features)``.

    Returns:
        A tensor of shape ``(*)``.

    Example:
        >>> F.gaussian_dropout_penalty(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]), sigma=1.0)
        tensor(6.5000)
    """
    if has_proxy(input, weight):
        return show(gaussian_dropout_penalty, input, weight, sigma)
    squares = weight.square()
    if squares.dim() == 2:
        squares = squares.sum(0)
    return 0.5 * sigma**2 * (input.square() @ squares)
