"""Checks of random numbers: their distribution, and that a key of two int64 determines them.

The key is fixed, so that results are reproducible; the bounds are statistical.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .accuracy import Figures, Inaccurate
from .operation import Options, described
from .running import naming, threads

KEY = torch.tensor([20240229, 7])
OTHER_KEYS = (KEY + torch.tensor([1, 0]), KEY + torch.tensor([0, 1]), KEY.flip(0))
SHAPE = (256, 512)  # enough elements for several threads
LAGS = (1, 2, 15, 16, 17, 31, 32, 48, 64)  # neighbors in the tensor, and in a block of random words
TAILS = (1e-2, 1e-3, 1e-4)
DEVIATIONS = 4.5  # standard deviations of a mean; exceeded once in 150,000 cases
KOLMOGOROV = 2.0  # the Kolmogorov-Smirnov distance times sqrt(n); exceeded once in 1,500 cases


@dataclass(frozen=True)
class Distribution:
    """Numbers between a and b. `below` is the distribution function, if they are continuous."""

    a: float
    b: float
    mean: float
    variance: float
    kurtosis: float
    below: Callable[[Tensor], Tensor] | None = None


def uniform(a: float, b: float) -> Distribution:
    return Distribution(a, b, (a + b) / 2, (b - a) ** 2 / 12, 1.8, lambda x: (x - a) / (b - a))


def normal(mean: float, std: float) -> Distribution:
    return Distribution(-math.inf, math.inf, mean, std**2, 3.0, lambda x: torch.special.ndtr((x - mean) / std))


def truncated_normal(mean: float, std: float, a: float, b: float) -> Distribution:
    """Computes the moments by integrating the distribution function on a fine grid."""
    ends = torch.special.ndtr((torch.tensor([a, b], dtype=torch.float64) - mean) / std)

    def below(x: Tensor) -> Tensor:
        return (torch.special.ndtr((x - mean) / std) - ends[0].item()) / (ends[1] - ends[0]).item()

    grid = torch.linspace(a, b, 100_001, dtype=torch.float64)
    mass, middle = below(grid).diff(), (grid[1:] + grid[:-1]) / 2
    center = (mass * middle).sum().item()
    variance, fourth = ((mass * (middle - center) ** n).sum().item() for n in (2, 4))
    return Distribution(a, b, center, variance, fourth / variance**2, below)


def dropped(p: float) -> Distribution:
    """0 with probability p, else 1 / (1 - p)."""
    q = p * (1 - p)
    return Distribution(0.0, 1 / (1 - p), 1.0, p / (1 - p), (1 - 3 * q) / q)


@dataclass(frozen=True)
class Random:
    """A function that fills a tensor with random numbers, or multiplies one by them, as data."""

    function: Callable[..., Tensor]
    distribution: Callable[..., Distribution]  # as a function of the options
    options: tuple[Options, ...] = ({},)
    beyond_torch: tuple[Options, ...] = ()  # options that the builtin lacks
    builtin: Callable[..., Tensor] | None = None

    @property
    def all_options(self) -> tuple[Options, ...]:
        return *self.options, *self.beyond_torch

    def draw(self, options: Options, dtype: torch.dtype, device: Any, key: Any = KEY) -> Tensor:
        return self.function(torch.ones(SHAPE, dtype=dtype, device=device), generator=key, **options)


def check_distribution(random: Random, dtype: torch.dtype, device: Any) -> Figures:
    """The distribution in float32, and that 16-bit numbers are the same numbers rounded."""
    worst, of = 0.0, ""
    for options in random.all_options:
        x = random.draw(options, torch.float32, device)
        if not torch.equal(random.draw(options, dtype, device), x.to(dtype)):
            raise AssertionError(f"{described(options)}: the same key gives other numbers than in float32, rounded")
        distance = _distance(x, random.distribution(**options))
        if distance >= worst:
            worst, of = distance, described(options)
    figures = {"ours": worst, "bound": KOLMOGOROV, "of": of}
    if not worst < KOLMOGOROV:
        raise Inaccurate(f"{of}: not the distribution: {worst:.3g} > {KOLMOGOROV}", figures)
    return figures


def check_numbers(random: Random, device: Any, seed: int = 0) -> Figures:
    """Moments, tails and independence, of torch's numbers too, and one stream of numbers for each key."""
    for options in random.all_options:
        expected = random.distribution(**options)
        for dtype in (torch.float64, torch.float32):
            with naming(f"{described(options)}, {dtype}"):
                x = random.draw(options, dtype, device)
                _assert_moments(x, expected)
                _assert_tails(x, expected)
                _assert_independent(random, options, x)
                _assert_one_stream(random, options, x, seed)
            if random.builtin is not None and options in random.options:
                with naming(f"torch's own, {described(options)}, {dtype}"):
                    _assert_moments(random.builtin(torch.ones_like(x), **options), expected)
    return {"options": len(random.all_options)}


def _distance(x: Tensor, distribution: Distribution) -> float:
    """The Kolmogorov-Smirnov distance between the distribution and that of x, times sqrt(n)."""
    if distribution.below is None:
        return 0.0
    below = distribution.below(x.double().flatten().sort().values)
    rank = torch.arange(1, len(below) + 1, device=x.device) / len(below)
    return (torch.maximum(rank - below, below - rank + 1 / len(below)).max() * len(below) ** 0.5).item()


def assert_near(found: Any, expected: float, deviation: float, what: str) -> None:
    if not abs(float(found) - expected) <= DEVIATIONS * deviation + 1e-6 * abs(expected):
        raise AssertionError(f"{what} is {float(found):.6g} instead of {expected:.6g}, by chance +- {deviation:.2g}")


def _assert_moments(x: Tensor, expected: Distribution) -> None:
    x, n = x.double(), x.numel()
    if x.min() < expected.a - 1e-6 or x.max() > expected.b + 1e-6:
        raise AssertionError(f"numbers beyond {expected.a:g} or {expected.b:g}")
    assert_near(x.mean(), expected.mean, (expected.variance / n) ** 0.5, "the mean")
    spread = expected.variance * ((expected.kurtosis - 1) / n) ** 0.5
    assert_near(((x - expected.mean) ** 2).mean(), expected.variance, spread, "the variance")


def _assert_tails(x: Tensor, expected: Distribution) -> None:
    if expected.below is not None:
        below = expected.below(x.double())
        for p in TAILS:
            for share in ((below < p).double().mean(), (below > 1 - p).double().mean()):
                assert_near(share, p, (p / x.numel()) ** 0.5, f"the share of the tail of probability {p}")


def _assert_independent(random: Random, options: Options, x: Tensor) -> None:
    """Of neighbors, and of the numbers of other keys."""
    z = _standardized(x)
    for lag in LAGS:
        assert_near((z[lag:] * z[:-lag]).mean(), 0, len(z) ** -0.5, f"the correlation at a distance of {lag}")
    for key in OTHER_KEYS:
        other = _standardized(random.draw(options, x.dtype, x.device, key))
        assert_near((z * other).mean(), 0, len(z) ** -0.5, "the correlation of two keys")


def _standardized(x: Tensor) -> Tensor:
    centered = x.double().flatten() - x.double().mean()
    return centered / centered.square().mean().sqrt()


def _assert_one_stream(random: Random, options: Options, x: Tensor, seed: int) -> None:
    """The same numbers for any number of threads and on any device; others in every call without a key."""
    for count in (1, 2, 3):
        with threads(count):
            if not torch.equal(random.draw(options, x.dtype, x.device), x):
                raise AssertionError(f"other numbers with {count} threads")
    if not torch.equal(random.draw(options, x.dtype, "cpu"), x.cpu()):
        raise AssertionError("other numbers than on the CPU")
    seeded = []
    for _ in range(2):
        torch.manual_seed(seed)
        seeded.append([random.draw(options, x.dtype, x.device, key=None) for _ in range(2)])
    if not all(map(torch.equal, *seeded)) or torch.equal(*seeded[0]):
        raise AssertionError("the seed does not tell the numbers, or every draw is the same")
