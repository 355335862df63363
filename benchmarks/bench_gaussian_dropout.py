"""gaussian_dropout against torch operations, because torch has no such function."""

from functools import partial

import torch
from torch import Tensor

import torchnotes

from .noise import noise

SIGMA = 0.5


def composed(x: Tensor) -> Tensor:
    return x * (1 + SIGMA * torch.randn_like(x))


CASES = noise(partial(torchnotes.functional.gaussian_dropout, sigma=SIGMA), composed, f"sigma = {SIGMA}")
