"""The checks of operations that fill a tensor with random numbers. tests/ops/test_random.py checks what all random
operations have in common.
"""

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
    keywords: dict[str, float]  # different from the defaults
    exact: Callable[[int, torch.dtype], np.ndarray]  # the first n numbers for KEY and the keywords, in float64
    distribution: Any  # scipy's
    bits: dict[torch.dtype, str]  # the start of the hash of 1000 numbers


class FillChecks:
    case: ClassVar[FillCase]

    def filled(self, n: int, dtype: torch.dtype = torch.float32, device: str = "cpu", key: Tensor = KEY) -> Tensor:
        x = torch.full((n,), torch.nan, dtype=dtype, device=device)
        assert self.case.fill(x, generator=key, **self.case.keywords) is x
        return x

    def test_matches_the_formula(self, dtype, device):
        got = self.filled(10_000, dtype, device)
        if dtype.itemsize == 2:
            assert torch.equal(got, self.filled(10_000, device=device).to(dtype))
            return
        exact = self.case.exact(10_000, dtype)
        # a few roundings of the number, the mean and the standard deviation
        rounding = torch.finfo(dtype).eps * (np.abs(exact) + sum(abs(x) for x in self.case.keywords.values()))
        assert (np.abs(got.double().cpu().numpy() - exact) <= 4 * rounding).all()

    def test_bits_are_pinned(self, dtype, device):
        """For every instruction set, every device and every version."""
        got = self.filled(1000, dtype, device).cpu().view(torch.uint8).numpy().tobytes()
        assert hashlib.sha256(got).hexdigest()[:16] == self.case.bits[dtype]

    def test_distribution(self):
        """Kolmogorov-Smirnov test, moments, tails, and correlations of neighboring elements and keys."""
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

    def test_defaults_match_torch(self):
        ours = self.case.fill(torch.empty(200_000), generator=KEY).double()
        torch.manual_seed(1)
        theirs = self.case.builtin(torch.empty(200_000)).double()
        assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 1e-3
