"""The checks of random operations. The key is fixed, so that results are reproducible; the bounds are statistical."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from .. import init
from ..testing.accuracy import Figures, Inaccurate, compared, errors, judged
from ..testing.operation import described
from ..testing.running import threads
from ._check_operations import Record, Setup

KEY = torch.tensor([20240229, 7])
OTHER_KEYS = (KEY + torch.tensor([1, 0]), KEY + torch.tensor([0, 1]), KEY.flip(0))
SHAPE, LONG = (128, 192), (512, 256)  # LONG is for several threads
DEVIATIONS = 4.5  # standard deviations of a mean; exceeded once in 150,000 cases
KOLMOGOROV = 2.0  # the Kolmogorov-Smirnov distance times sqrt(n); exceeded once in 1,500 cases


class Uniform:
    def __init__(self, a: float, b: float) -> None:
        self.a, self.b = a, b
        self.mean, self.variance, self.kurtosis = (a + b) / 2, (b - a) ** 2 / 12, 1.8

    def below(self, x: Tensor) -> Tensor:
        return (x - self.a) / (self.b - self.a)


class Normal:
    def __init__(self, mean: float, std: float) -> None:
        self.a, self.b = -math.inf, math.inf
        self.mean, self.variance, self.kurtosis = mean, std**2, 3.0

    def below(self, x: Tensor) -> Tensor:
        return torch.special.ndtr((x - self.mean) / self.variance**0.5)


class TruncatedNormal:
    """Computes its moments by integrating the distribution function on a fine grid."""

    def __init__(self, mean: float, std: float, a: float, b: float) -> None:
        self.a, self.b = a, b
        self.whole = Normal(mean, std)
        ends = self.whole.below(torch.tensor([a, b]).double())
        self.first, self.part = ends[0].item(), (ends[1] - ends[0]).item()
        grid = torch.linspace(a, b, 100_001, dtype=torch.float64)
        mass, middle = self.below(grid).diff(), (grid[1:] + grid[:-1]) / 2
        self.mean = (mass * middle).sum().item()
        self.variance = (mass * (middle - self.mean) ** 2).sum().item()
        self.kurtosis = (mass * (middle - self.mean) ** 4).sum().item() / self.variance**2

    def below(self, x: Tensor) -> Tensor:
        return (self.whole.below(x) - self.first) / self.part


Distribution = Uniform | Normal | TruncatedNormal


@dataclass(frozen=True)
class Fill(Record):
    """An initializer as data."""

    theirs: Callable[..., Tensor]
    distribution: Callable[..., Distribution]  # as a function of the options
    options: tuple[dict[str, Any], ...] = ({},)
    ours_alone: tuple[dict[str, Any], ...] = ()  # options that torch's lacks

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures:
        """Checks the distribution in float32, and that 16-bit numbers are the same numbers rounded."""
        worst, of = 0.0, ""
        for option in (*self.options, *self.ours_alone):
            x = ours(torch.empty(SHAPE, device=setup.device), generator=KEY, **option)
            short = ours(torch.empty(SHAPE, device=setup.device, dtype=dtype), generator=KEY, **option)
            if not torch.equal(short, x.to(dtype)):
                raise AssertionError(f"{described(option)}: the same key gives other numbers than in float32, rounded")
            distance = _distance(x, self.distribution(**option))
            if distance >= worst:
                worst, of = distance, described(option)
        figures = {"ours": worst, "bound": KOLMOGOROV, "of": of}
        if not worst < KOLMOGOROV:
            raise Inaccurate(f"{of}: not the distribution: {worst:.3g} > {KOLMOGOROV}", figures)
        return figures

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        for option in (*self.options, *self.ours_alone):
            expected = self.distribution(**option)
            for dtype in (torch.float64, torch.float32):
                how: dict[str, Any] = dict(dtype=dtype, device=setup.device)
                drawn = partial(_drawn, ours, torch.empty, option, **how)
                assert_moments(drawn(generator=KEY), expected, described(option))
                if option in self.options:
                    x = _drawn(self.theirs, torch.empty, option, **how)
                    assert_moments(x, expected, f"torch's own, {described(option)}")
                assert_one_stream(drawn, setup)
        return {"options": len(self.options) + len(self.ours_alone)}


@dataclass(frozen=True)
class Noise(Record):
    """An operation that multiplies by noise, as data: y = d x, with E[d] = 1."""

    variance: Callable[..., float]  # of d, as a function of the options
    options: tuple[dict[str, Any], ...]
    none: dict[str, Any]  # options that disable noise

    def gradcheck(self, ours: Callable, setup: Setup) -> Figures:
        for function, x in self._functions(ours, setup):
            gradcheck(function, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
        return {"options": 2 * len(self.options)}

    def second_order(self, ours: Callable, setup: Setup) -> Figures:
        for function, x in self._functions(ours, setup):
            gradgradcheck(function, x, check_fwd_over_rev=True, check_rev_over_rev=True)
        return {"options": 2 * len(self.options)}

    def _functions(self, ours: Callable, setup: Setup) -> Iterator[tuple[Callable, Tensor]]:
        x = torch.randn(3, 4, dtype=torch.float64).to(setup.device).requires_grad_()
        for option in self.options:
            yield (lambda x, o=option: ours(x, generator=KEY, **o)), x
            yield (lambda x, o=option: ours(x * 1, generator=KEY, inplace=True, **o)), x

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures:
        """d x and the gradient d g are rounded once. d is the result for ones in float32."""
        measured = []
        x, g = torch.randn(2, *SHAPE).to(setup.device, dtype)
        for option in self.options:
            d = ours(torch.ones(SHAPE, device=setup.device), generator=KEY, **option)
            y = ours(leaf := x.clone().requires_grad_(), generator=KEY, **option)
            (dx,) = torch.autograd.grad(y, leaf, g)
            for name, found, by in (("value", y.detach(), x), ("gradient", dx, g)):
                off, other_off = (errors(t, by.double() * d.double(), dtype, True) for t in (found, (by * d).to(dtype)))
                measured.append(compared(f"{name} of {described(option)}", off, other_off))
        return judged(measured)

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        for option in self.options:
            for dtype in (torch.float64, torch.float32):
                drawn = partial(_drawn, ours, torch.ones, option, dtype=dtype, device=setup.device)
                d = drawn(generator=KEY).double()
                n, variance = d.numel(), self.variance(**option)
                assert_near(d.mean(), 1, (variance / n) ** 0.5, f"{described(option)}: the mean")
                fourth = ((d - 1) ** 4).mean().item()
                spread = (max(0.0, fourth - variance**2) / n) ** 0.5
                assert_near(((d - 1) ** 2).mean(), variance, spread, f"{described(option)}: the variance")
                assert_one_stream(drawn, setup)
                if not torch.equal(drawn(generator=KEY, inplace=True), drawn(generator=KEY)):
                    raise AssertionError(f"{described(option)}: another result in place")
                if not torch.equal(drawn(training=False), torch.ones_like(d, dtype=dtype)):
                    raise AssertionError(f"{described(option)}: noise in evaluation")
        x = torch.ones(SHAPE, device=setup.device)
        if not torch.equal(ours(x, **self.none), x):
            raise AssertionError(f"{described(self.none)}: noise")
        return {"options": len(self.options)}


class Initialize(Record):
    """init.initialize_, for every scheme."""

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        layers = {
            "plain": (torch.nn.Linear(300, 200), (200, 300)),  # the numbers of outputs and inputs
            "grouped": (torch.nn.Conv2d(16, 64, 5, groups=2), (32 * 25, 8 * 25)),
            "transposed": (torch.nn.ConvTranspose2d(64, 16, 5), (16 * 25, 64 * 25)),
        }
        for scheme, fill in init.SCHEMES.items():
            model = torch.nn.ModuleDict({name: layer for name, (layer, _) in layers.items()}).to(setup.device)
            other = torch.nn.ModuleDict(dict(reversed(list(model.items()))))
            found = {name: p.clone() for name, p in ours(model, scheme, seed=setup.seed).state_dict().items()}
            for name, p in ours(other, scheme, seed=setup.seed).state_dict().items():
                if not torch.equal(p, found[name]):
                    raise AssertionError(f"{scheme}: {name} depends on the order of the layers")
            for name, (_, sizes) in layers.items():
                expected, got = fill(torch.empty(sizes), generator=KEY), found[f"{name}.weight"]
                ratio = (got.square().mean() / expected.square().mean()).item()
                # A mean of n squares of normal numbers has the variance 2 / n.
                deviation = (2 / expected.numel() + 2 / got.numel()) ** 0.5
                assert_near(ratio, 1, deviation, f"{scheme}: the variance of {name}")
                if found[f"{name}.bias"].any():
                    raise AssertionError(f"{scheme}: the bias of {name} is not 0")
        return {"schemes": len(init.SCHEMES)}


def _drawn(
    function: Callable, start: Callable, option: dict, shape: tuple = SHAPE, *, dtype: Any, device: Any, **more: Any
) -> Tensor:
    return function(start(shape, dtype=dtype, device=device), **option, **more)


def _distance(x: Tensor, distribution: Distribution) -> float:
    """The Kolmogorov-Smirnov distance between the distribution and that of x, times sqrt(n)."""
    below = distribution.below(x.double().flatten().sort().values)
    rank = torch.arange(1, len(below) + 1, device=x.device) / len(below)
    return (torch.maximum(rank - below, below - rank + 1 / len(below)).max() * len(below) ** 0.5).item()


def assert_near(found: Any, expected: float, deviation: float, what: str) -> None:
    if not abs(float(found) - expected) <= DEVIATIONS * deviation + 1e-6 * abs(expected):
        raise AssertionError(f"{what} is {float(found):.6g} instead of {expected:.6g}, by chance +- {deviation:.2g}")


def assert_moments(x: Tensor, expected: Distribution, what: str) -> None:
    x, n = x.double(), x.numel()
    if x.min() < expected.a - 1e-6 or x.max() > expected.b + 1e-6:
        raise AssertionError(f"{what}: numbers beyond {expected.a:g} or {expected.b:g}")
    assert_near(x.mean(), expected.mean, (expected.variance / n) ** 0.5, f"{what}: the mean")
    spread = expected.variance * ((expected.kurtosis - 1) / n) ** 0.5
    assert_near(((x - expected.mean) ** 2).mean(), expected.variance, spread, f"{what}: the variance")


def assert_one_stream(drawn: Callable[..., Tensor], setup: Setup) -> None:
    """A key determines the numbers, for any number of threads and on any device. Other keys give other numbers, and
    every call without a key, too."""
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(drawn(LONG, generator=KEY))
        if not torch.equal(found[-1], found[0]):
            raise AssertionError(f"other numbers with {count} threads")
    if not torch.equal(drawn(LONG, generator=KEY, device="cpu"), found[0].cpu()):
        raise AssertionError("other numbers than on the CPU")
    x = drawn(generator=KEY)
    centred = x.double() - x.double().mean()
    for key in OTHER_KEYS:
        y = drawn(generator=key).double()
        correlation = (centred * (y - y.mean())).mean() / centred.square().mean()
        assert_near(correlation, 0, x.numel() ** -0.5, "the correlation of two keys")
    seeded = []
    for _ in range(2):
        torch.manual_seed(setup.seed)
        seeded.append((drawn(), drawn()))
    if not all(map(torch.equal, *seeded)) or torch.equal(*seeded[0]):
        raise AssertionError("the seed does not tell the numbers, or every draw is the same")
