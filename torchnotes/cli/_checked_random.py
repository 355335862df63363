"""The records of random operations: torch's counterpart and the distribution of the numbers."""

import math
from collections.abc import Callable
from functools import partial

import torch

from ._check_operations import Record
from ._check_random import SHAPE, Distribution, Fill, Initialize, Noise, Normal, TruncatedNormal, Uniform

OUTPUTS, INPUTS = SHAPE
FAN = {"fan_in": INPUTS, "fan_out": OUTPUTS, "fan_avg": (INPUTS + OUTPUTS) / 2}


def _rate(p: float | None = None, sigma: float | None = None) -> float:
    """The variance of Gaussian dropout."""
    p = 0.5 if p is None else p
    return p / (1 - p) if sigma is None else sigma**2


def _uniform(variance: float) -> Uniform:
    return Uniform(-math.sqrt(3 * variance), math.sqrt(3 * variance))


def _normal(variance: float) -> Normal:
    return Normal(0.0, math.sqrt(variance))


def _schemes(kind: str, of_variance: Callable[[float], Distribution]) -> dict[str, Record]:
    """The initializers with a variance of gain^2 / fan, and torch's with the same variance."""
    glorot, he = (getattr(torch.nn.init, f"{name}_{kind}_") for name in ("xavier", "kaiming"))

    def of_gain(gain: float = 1.0, mode: str = "fan_in") -> Distribution:
        return of_variance(gain**2 / FAN[mode])

    def of_nonlinearity(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Distribution:
        return of_gain(torch.nn.init.calculate_gain(nonlinearity, a), mode)  # type: ignore[arg-type] # torch expects literals

    return {
        f"glorot_{kind}_": Fill(
            glorot,
            lambda gain=1.0, mode="fan_avg": of_gain(gain, mode),
            ({}, {"gain": 2.0}),
            ours_alone=({"mode": "fan_in"},),
        ),
        f"he_{kind}_": Fill(
            he,
            of_nonlinearity,
            ({}, {"a": 1.5, "mode": "fan_out"}, {"nonlinearity": "tanh"}),
            ours_alone=({"mode": "fan_avg"},),
        ),
        f"lecun_{kind}_": Fill(
            partial(he, nonlinearity="linear"), of_gain, ({},), ours_alone=({"gain": 2.0, "mode": "fan_avg"},)
        ),
    }


RANDOM: dict[str, Record] = {
    "dropout": Noise(lambda p=0.5: p / (1 - p), ({}, {"p": 0.1}, {"p": 0.9}), none={"p": 0.0}),
    "gaussian_dropout": Noise(_rate, ({}, {"p": 0.1}, {"sigma": 0.3}), none={"p": 0.0}),
    "uniform_": Fill(torch.nn.init.uniform_, lambda a=0.0, b=1.0: Uniform(a, b), ({}, {"a": -0.5, "b": 1.25})),
    "normal_": Fill(
        torch.nn.init.normal_, lambda mean=0.0, std=1.0: Normal(mean, std), ({}, {"mean": 0.25, "std": 1.5})
    ),
    "trunc_normal_": Fill(
        torch.nn.init.trunc_normal_,
        lambda mean=0.0, std=1.0, a=-2.0, b=2.0: TruncatedNormal(mean, std, a, b),
        ({}, {"mean": 0.25, "std": 1.5, "a": -1.0, "b": 3.0}),
    ),
    **_schemes("uniform", _uniform),
    **_schemes("normal", _normal),
    "default_uniform_": Fill(
        partial(torch.nn.init.kaiming_uniform_, a=math.sqrt(5)),
        lambda mode="fan_in": _uniform(1 / 3 / FAN[mode]),
        ({},),
        ours_alone=({"mode": "fan_out"},),
    ),
    "initialize_": Initialize(),
}
