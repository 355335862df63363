"""The errors of a function and of its gradient compared with float64, in ULP."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .memory import Regime
from .results import Row

Function = Callable[[Tensor], Tensor]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EDGES = (0.0, 1e-30, -1e-30, 88.0, -88.0, 1e4, -1e4)
SCALES = (1e-3, 1.0, 10.0, 100.0)


def points(size: int) -> Tensor:
    """Edge cases, then normally distributed points of every scale."""
    scales = torch.tensor(SCALES, dtype=torch.float64).repeat(math.ceil(size / len(SCALES)))[:size]
    x = scales * torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[: len(EDGES)] = torch.tensor(EDGES[:size])
    return x


@dataclass(frozen=True)
class Accuracy:
    """Compares `functions` with `reference` in float64."""

    functions: dict[str, Function]
    reference: Function
    points: Callable[[int], Tensor] = points
    output_gradient: Function = torch.ones_like
    name: str = "accuracy"
    sizes: tuple[int, ...] = (4_000_000,)

    def regime(self, size: int, device: torch.device) -> Regime:
        return "warm"

    def measure(self, size: int, device: torch.device, repeats: int) -> list[Row]:
        return [row for dtype in DTYPES for row in self._errors(size, dtype, device)]

    def _errors(self, size: int, dtype: torch.dtype, device: torch.device) -> list[Row]:
        x = self.points(size).to(device, dtype)
        y, slope = self._value_and_slope(self.reference, x.double())
        rows = []
        for name, function in self.functions.items():
            got, got_slope = self._value_and_slope(function, x)
            errors = {
                "forward": (got - y).abs().where(got != y, 0) / ulp(y, dtype),  # equal infinities are correct
                # A slope is a factor of the gradient: its error counts in ulp of 1, however small it is.
                "gradient": (got_slope - slope).abs() / torch.finfo(dtype).eps,
            }
            rows += [
                {
                    "case": f"{self.name} {of}",
                    "size": size,
                    "dtype": str(dtype).removeprefix("torch."),
                    "regime": "warm",
                    "contender": name,
                    "max_error": error.max().item(),
                    "mean_error": error.mean().item(),
                }
                for of, error in errors.items()
            ]
        return rows

    def _value_and_slope(self, function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        y = function(x)
        (slope,) = torch.autograd.grad(y, x, self.output_gradient(y.detach()))
        return y.detach(), slope


def ulp(y: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighboring numbers of dtype at y."""
    limits = torch.finfo(dtype)
    power = torch.ldexp(torch.ones_like(y), torch.frexp(y).exponent - 1)
    return limits.eps * power.clamp_min(limits.smallest_normal)
