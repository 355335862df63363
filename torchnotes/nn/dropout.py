"""Dropout by multiplicative noise."""

import math

import torch
from torch import Tensor


class GaussianDropout(torch.nn.Module):
    """x d in training, with d ~ N(1, sigma^2) for each element and sigma^2 = p / (1 - p): the variance of dropout at
    rate p, and an L2 penalty scaled by the inputs in what follows.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"the rate of Gaussian dropout has to be at least 0 and less than 1, but got {p}")
        self.p = p

    @property
    def sigma(self) -> float:
        return math.sqrt(self.p / (1 - self.p))

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        return input * (1 + self.sigma * torch.randn_like(input))

    def extra_repr(self) -> str:
        return f"p={self.p}"
