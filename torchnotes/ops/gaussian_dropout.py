"""Gaussian dropout. The formulas and their derivation: csrc/formulas/gaussian_dropout.h.

y = d x,    d ~ N(1, sigma^2),    dy/dx = d
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..autograd.function import show, watched
from ._random import Generator, Noise, draws_natively, noisy, random_key

torch.library.register_fake("torchnotes::gaussian_dropout", lambda x, key, mean, sigma, place=None: torch.empty_like(x))
torch.library.register_fake("torchnotes::gaussian_dropout_", lambda x, key, mean, sigma, place=None: None)


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


def gaussian_dropout(
    input: Tensor,
    p: float | None = None,
    training: bool = True,
    inplace: bool = False,
    *,
    sigma: float | None = None,
    generator: Generator = None,
) -> Tensor:
    """Multiplies each element of the input by independent N(1, sigma^2) noise in training.

    sigma is given, or follows from the rate p (0.5 by default) as in Keras: sigma^2 = p/(1 - p), the variance of
    dropout. Saves only a 16-byte key for the backward pass, which regenerates the noise. The key is drawn from
    `generator`, by default torch's for the CPU, or is `generator` itself: a tensor of two int64, which gives the same
    noise every time.

    A DTensor gets the noise of the full tensor, however it is sharded, if all ranks have the same seed. Partial sums
    are reduced first, and cannot be overwritten.
    """
    sigma = deviation(p, sigma)
    if isinstance(input, Tensor) and (not training or sigma == 0 or input.numel() == 0):
        return input
    return times_normal(input, 1.0, sigma, inplace, generator)


def gaussian_dropout_penalty(input: Tensor, weight: Tensor, sigma: float | Tensor) -> Tensor:
    """1/2 sigma^2 sum_k w_k^2 x_k^2: what Gaussian dropout of x adds to the expectation of 1/2 |t - W x|^2.

    weight is (in_features,) or (out_features, in_features), input is (*, in_features), and the result is (*).
    """
    squares = weight.square()
    if squares.dim() == 2:
        squares = squares.sum(0)
    return 0.5 * sigma**2 * (input.square() @ squares)
