"""Random operations: the distribution of their numbers, and products with random numbers as differentiable ones."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from ... import init
from ..makers import normal as normal_input
from ..operation import Operation, Options
from ..random import KEY, SHAPE, Distribution, Random, dropped, normal, truncated_normal, uniform
from .activations import extremes

OUTPUTS, INPUTS = SHAPE
FAN = {"fan_in": INPUTS, "fan_out": OUTPUTS, "fan_avg": (INPUTS + OUTPUTS) / 2}


def _uniform(variance: float) -> Distribution:
    return uniform(-math.sqrt(3 * variance), math.sqrt(3 * variance))


def _normal(variance: float) -> Distribution:
    return normal(0.0, math.sqrt(variance))


def _gaussian_dropout(p: float = 0.5, sigma: float | None = None) -> Distribution:
    return normal(1.0, math.sqrt(p / (1 - p)) if sigma is None else sigma)


def _schemes(kind: str, of_variance: Callable[[float], Distribution]) -> dict[str, Random]:
    """The initializers with a variance of gain^2 / fan, and torch's with the same variance."""
    glorot, he = (getattr(torch.nn.init, f"{name}_{kind}_") for name in ("xavier", "kaiming"))

    def of_gain(gain: float = 1.0, mode: str = "fan_in") -> Distribution:
        return of_variance(gain**2 / FAN[mode])

    def of_nonlinearity(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Distribution:
        return of_gain(torch.nn.init.calculate_gain(nonlinearity, a), mode)  # type: ignore[arg-type] # torch expects literals

    return {
        f"glorot_{kind}_": Random(
            getattr(init, f"glorot_{kind}_"),
            lambda gain=1.0, mode="fan_avg": of_gain(gain, mode),
            options=({}, {"gain": 2.0}),
            beyond_torch=({"mode": "fan_in"},),
            builtin=glorot,
        ),
        f"he_{kind}_": Random(
            getattr(init, f"he_{kind}_"),
            of_nonlinearity,
            options=({}, {"a": 1.5, "mode": "fan_out"}, {"nonlinearity": "tanh"}),
            beyond_torch=({"mode": "fan_avg"},),
            builtin=he,
        ),
        f"lecun_{kind}_": Random(
            getattr(init, f"lecun_{kind}_"),
            of_gain,
            beyond_torch=({"gain": 2.0, "mode": "fan_avg"},),
            builtin=partial(he, nonlinearity="linear"),
        ),
    }


RANDOM = {
    "dropout": Random(F.dropout, lambda p=0.5: dropped(p), options=({}, {"p": 0.1}, {"p": 0.97})),
    "gaussian_dropout": Random(F.gaussian_dropout, _gaussian_dropout, options=({}, {"p": 0.1}, {"sigma": 0.3})),
    "uniform_": Random(
        init.uniform_,
        lambda a=0.0, b=1.0: uniform(a, b),
        options=({}, {"a": -0.5, "b": 1.25}),
        builtin=torch.nn.init.uniform_,
    ),
    "normal_": Random(
        init.normal_,
        lambda mean=0.0, std=1.0: normal(mean, std),
        options=({}, {"mean": 0.25, "std": 1.5}),
        builtin=torch.nn.init.normal_,
    ),
    "trunc_normal_": Random(
        init.trunc_normal_,
        lambda mean=0.0, std=1.0, a=-2.0, b=2.0: truncated_normal(mean, std, a, b),
        options=({}, {"mean": 0.25, "std": 1.5, "a": -2.0, "b": 1.0}),
        builtin=torch.nn.init.trunc_normal_,
    ),
    **_schemes("uniform", _uniform),
    **_schemes("normal", _normal),
    "default_uniform_": Random(
        init.default_uniform_,
        lambda mode="fan_in": _uniform(1 / 3 / FAN[mode]),
        beyond_torch=({"mode": "fan_out"},),
        builtin=partial(torch.nn.init.kaiming_uniform_, a=math.sqrt(5)),
    ),
}


def keyed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, with the same numbers in every call."""
    return lambda input, **options: function(input, generator=KEY, **options)


def _noisy(function: Callable[..., Tensor], *options: Options, more_options: tuple[Options, ...] = ()) -> Operation:
    def product(
        input: Tensor,
        drawn_in: torch.dtype | None = None,
        training: bool = True,
        inplace: bool = False,
        **options: Any,
    ) -> Tensor:
        if not training:
            return input
        dtype = torch.promote_types(drawn_in or input.dtype, torch.float32)  # 16-bit tensors get float32 numbers
        return (input * function(torch.ones_like(input, dtype=dtype), generator=KEY, **options)).to(input.dtype)

    return Operation(
        keyed(function),
        product,
        arguments={"input": normal_input},
        options=options,
        more_options=({"training": False}, *more_options),
        special=({"input": extremes},),
        builtin=product,
        elementwise=True,
        random=True,
        benchmarked=tuple((n,) for n in (4096, 100_000, 1_000_000, 4_000_000, 32_000_000)),
        gradient_strides=False,
        saves=(),
        saves_besides=lambda shape: 2,  # the key
        fusible=False,  # the kernel is many times faster than the compiler's
        unchecked={
            "bad_arguments": "tests/ops/test_random.py",
            "other_dtypes": "these get torch's numbers",
            "subclasses": "these get torch's numbers",
            "fake_tensors": "tests/ops/test_random.py",
            "place_in_memory": "each element has its own number",
        },
    )


NOISES = {
    "dropout": _noisy(F.dropout, {}, {"p": 0.1}, {"p": 0.9, "inplace": True}, more_options=({"p": 1.0},)),
    "gaussian_dropout": _noisy(F.gaussian_dropout, {}, {"p": 0.1}, {"sigma": 0.3, "inplace": True}),
}
