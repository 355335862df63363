"""The checks of the numbers that fill a tensor. What random operations have in common: tests/ops/test_random.py."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from philox import KEY

MANY = 1 << 20


@dataclass(frozen=True)
class FillCase:
    """An operation that fills a tensor, as data."""

    fill: Callable[..., Tensor]
    builtin: Callable[..., Tensor]
    keywords: dict[str, float]  # not the default ones
    exact: Callable[[int, torch.dtype], np.ndarray]  # so many numbers for KEY and the keywords, in float64
    distribution: Any  # of them, as scipy has it
    bits: dict[torch.dtype, str]  # the first digits of the hash of 1000 numbers


class FillChecks:
    case: ClassVar[FillCase]

    def filled(self, n: int, dtype: torch.dtype = torch.float32, device: str = "cpu", key: Tensor = KEY) -> Tensor:
        x = torch.full((n,), torch.nan, dtype=dtype, device=device)
        assert self.case.fill(x, generator=key, **self.case.keywords) is x
        return x

    def test_the_numbers_are_those_of_the_words(self, dtype, device):
        got = self.filled(10_000, dtype, device)
        if dtype.itemsize == 2:
            assert torch.equal(got, self.filled(10_000, device=device).to(dtype))
            return
        exact = self.case.exact(10_000, dtype)
        # a few roundings of the number, and of the mean and deviation that it is made of
        rounding = torch.finfo(dtype).eps * (np.abs(exact) + sum(abs(x) for x in self.case.keywords.values()))
        assert (np.abs(got.double().cpu().numpy() - exact) <= 4 * rounding).all()

    def test_the_bits_are_the_same_everywhere(self, dtype, device):
        """For every instruction set and device that the tests run on, and from one version to the next."""
        got = self.filled(1000, dtype, device).cpu().view(torch.uint8).numpy().tobytes()
        assert hashlib.sha256(got).hexdigest()[:16] == self.case.bits[dtype]

    def test_the_distribution(self):
        """Kolmogorov and Smirnov; the moments; the tails; neighbours, and streams of neighbouring keys."""
        distribution = self.case.distribution
        x = self.filled(MANY, torch.float64).numpy()
        mean, variance = distribution.stats("mv")
        z = (x - mean) / np.sqrt(variance)
        for k in range(1, 5):
            expected = distribution.expect(lambda t, k=k: ((t - mean) / np.sqrt(variance)) ** k)
            assert abs((z**k).mean() - expected) < 4.5 * (z**k).std() / np.sqrt(MANY), f"moment {k}"
        for probability in (1e-2, 1e-3, 3e-5):
            for tail in (x < distribution.ppf(probability), x > distribution.isf(probability)):
                assert abs(tail.mean() - probability) < 4.5 * np.sqrt(probability / MANY)
        for lag in (1, 2, 15, 16, 17, 31, 32, 48, 64):
            assert abs((z[lag:] * z[:-lag]).mean()) < 4.5 / np.sqrt(MANY), f"lag {lag}"
        for neighbour in (KEY + torch.tensor([1, 0]), KEY + torch.tensor([0, 1]), KEY.flip(0)):
            other = self.filled(MANY, torch.float64, key=neighbour).numpy()
            assert abs((z * (other - mean) / np.sqrt(variance)).mean()) < 4.5 / np.sqrt(MANY)
        for numbers in (x, self.filled(MANY).double().numpy()):
            assert stats.kstest(numbers[: 1 << 18], distribution.cdf).pvalue > 1e-3

    def test_the_defaults_are_torchs(self):
        ours = self.case.fill(torch.empty(200_000), generator=KEY).double()
        torch.manual_seed(1)
        theirs = self.case.builtin(torch.empty(200_000)).double()
        assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 1e-3
