"""The records of random operations, which run the checks of torchnotes.testing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import init
from ..testing.accuracy import Figures
from ..testing.operation import Operation
from ..testing.operations.random import NOISES, RANDOM, keyed
from ..testing.random import KEY, Random, assert_near, check_distribution, check_numbers
from ._check_operations import Differentiable, Record, Setup


@dataclass(frozen=True)
class Fill(Record):
    """An initializer."""

    random: Random

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures:
        return check_distribution(replace(self.random, function=ours), dtype, setup.device)

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        return check_numbers(replace(self.random, function=ours), setup.device, setup.seed)


@dataclass(frozen=True)
class Noise(Differentiable):
    """An operation that multiplies by noise."""

    random: Random

    def agreement(self, ours: Callable, setup: Setup) -> Figures:
        super().agreement(ours, setup)
        return check_numbers(replace(self.random, function=ours), setup.device, setup.seed)

    def _of(self, ours: Callable[..., Any]) -> Operation:
        return super()._of(keyed(ours))


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


NOISY: dict[str, Record] = {name: Noise(operation, RANDOM[name]) for name, operation in NOISES.items()}
FILLS: dict[str, Record] = {name: Fill(random) for name, random in RANDOM.items() if name not in NOISES}
CHECKED_RANDOM = {**NOISY, **FILLS, "initialize_": Initialize()}
