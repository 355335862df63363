"""Dropout, and dropout with multiplicative noise."""

import math

import torch
from torch import Tensor

from .. import functional as F
from .._docs import arguments_from
from ..ops.activations import Activation, activated
from ..ops.gaussian_dropout import deviation, times_normal
from .linear import Initialization, Linear


class Dropout(torch.nn.Dropout):
    """Applies :func:`~torchnotes.functional.dropout` in training, like :class:`torch.nn.Dropout`.

    Args:
        p: The probability of zeroing an element.
        inplace: Whether to overwrite the input with the result.

    Example:
        >>> nn.Dropout(0.5).eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)


class _GaussianRate:
    """The standard deviation of Gaussian noise, given directly or as a rate; the default rate is 0.5."""

    p: float | None
    sigma: float | None

    def set_rate(self, p: float | None, sigma: float | None) -> None:
        deviation(p, sigma)
        self.p = 0.5 if p is None and sigma is None else p
        self.sigma = sigma

    def rate_repr(self) -> str:
        return f"p={self.p}" if self.sigma is None else f"sigma={self.sigma}"


class GaussianDropout(_GaussianRate, torch.nn.Module):
    """Applies :func:`~torchnotes.functional.gaussian_dropout` in training.

    Before a linear layer it acts like an L2 penalty that is scaled by the inputs
    (:func:`~torchnotes.functional.gaussian_dropout_penalty`).

    Args:
        p: A rate, 0.5 by default, that gives the noise the variance of dropout, p/(1 - p).
        inplace: Whether to overwrite the input with the result.
        sigma: The standard deviation of the noise, in place of ``p``.

    Example:
        >>> nn.GaussianDropout(sigma=0.1).eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __init__(self, p: float | None = None, inplace: bool = False, *, sigma: float | None = None) -> None:
        super().__init__()
        self.set_rate(p, sigma)
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.gaussian_dropout(input, self.p, self.training, self.inplace, sigma=self.sigma)

    def extra_repr(self) -> str:
        return f"{self.rate_repr()}, inplace={self.inplace}"


@arguments_from(Linear, GaussianDropout)
class GaussianDropoutLinear(_GaussianRate, Linear):
    """A linear layer with Gaussian dropout of its input, sampled at the output.

    In training W (d x), with d from N(1, sigma^2), is normal with mean W x and variance sigma^2 (W^2)(x^2). Each output
    is drawn independently (the local reparameterization of Kingma, Salimans and Welling, 2015), as if every weight had
    noise of its own.

    Shape:
        The input is ``(*, in_features)``, the output ``(*, out_features)``.

    Example:
        >>> nn.GaussianDropoutLinear(3, 2, sigma=0.1)(torch.ones(4, 3)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        p: float | None = None,
        sigma: float | None = None,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
        init: Initialization = "torch",
    ) -> None:
        self.set_rate(p, sigma)
        super().__init__(
            in_features,
            out_features,
            bias,
            device,
            dtype,
            activation=activation,
            negative_slope=negative_slope,
            init=init,
        )

    def forward(self, input: Tensor) -> Tensor:
        sigma = deviation(self.p, self.sigma)
        if not self.training or sigma == 0:
            return F.linear(
                input, self.weight, self.bias, activation=self.activation, negative_slope=self.negative_slope
            )
        mean = F.linear(input, self.weight, self.bias)
        variance = F.linear(input.square(), self.weight.square())
        positive = variance > 0  # the root has no slope at 0, where there is no noise either
        spread = torch.where(positive, variance, 1).sqrt() * positive
        z = mean + times_normal(spread, 0.0, sigma)
        return activated(z, self.activation, self.negative_slope)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.rate_repr()}"


class VariationalDropout(torch.nn.Module):
    """Gaussian dropout that learns its rate.

    The output is x + sqrt(alpha) x n in training, with n from N(0, 1) and alpha = e^log_alpha. Add
    :meth:`~torchnotes.nn.VariationalDropout.kl`, divided by the number of samples, to the loss to learn alpha: it grows
    as the noise shrinks.

    Args:
        num_features: The size of the last dimension, for an alpha per feature. By default there is one alpha.
        p: The initial rate; alpha is initialized to p/(1 - p).
        device, dtype: The device and dtype of ``log_alpha``.

    Example:
        >>> layer = nn.VariationalDropout(3)
        >>> layer.eval()(torch.ones(3))
        tensor([1., 1., 1.])
        >>> loss = layer.kl() / 1000  # for 1000 samples
    """

    def __init__(
        self,
        num_features: int | None = None,
        p: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 < p < 1:
            raise ValueError(f"the rate of variational dropout must be between 0 and 1, got {p}")
        self.num_features = num_features
        self.p = p
        shape = () if num_features is None else (num_features,)
        self.log_alpha = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.constant_(self.log_alpha, math.log(self.p / (1 - self.p)))

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        return input + times_normal(input * (self.log_alpha / 2).exp(), 0.0, 1.0)

    def kl(self) -> Tensor:
        """Computes the divergence of the noise from a log-uniform prior, summed over the features, up to a constant.

        KL(alpha) = E[ln abs(1 + sqrt(alpha) n)] - 1/2 ln alpha + (ln 2 + 0.577...)/2 falls to 0 as alpha grows. To
        within 0.01 it is 1/2 ln(1 + 1/alpha) + c_1 (1 - s(c_2 + c_3 ln alpha)), with s the logistic function
        (Molchanov, Ashukha and Vetrov, 2017).

        Returns:
            A scalar that is differentiable in ``log_alpha``.
        """
        rest = 0.63576 * F.sigmoid(-(1.87320 + 1.48695 * self.log_alpha))
        return (0.5 * torch.nn.functional.softplus(-self.log_alpha) + rest).sum()

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, p={self.p}"
