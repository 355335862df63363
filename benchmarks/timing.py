"""Compares implementations of the same work: checks their results, then times them alternately in random order."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchnotes.classifier.training import synchronize

from . import memory
from .results import Row

Contender = Callable[[], Sequence[Tensor]]

OURS = "torchnotes"
OUR_VARIANTS = ("not in place", "nearest", "stochastic")  # contenders that are torchnotes, too
COPY = "copy"
# The share of numbers that may be wrong, because rounding decides on which side of a kink they are. In bfloat16 these
# are thousands of equal numbers.
AT_A_KINK = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 1e-3}
SAMPLE_SECONDS = 2e-3  # short calls are timed in groups of about this length


@dataclass(frozen=True)
class Problem:
    contenders: dict[str, Contender]
    reference: Contender  # the same work in float64
    bytes_moved: int  # the least possible memory traffic
    allowed: float | None = None  # error relative to the largest number, except at kinks; None: that of assert_close
    # For random results: statistics that must agree with the reference within `allowed`.
    statistics: Callable[[Sequence[Tensor]], Tensor] | None = None


@dataclass(frozen=True)
class Case:
    """A benchmark at several sizes. `setup` creates the contenders, all with the same inputs."""

    name: str
    sizes: tuple[int, ...]
    setup: Callable[[int, torch.dtype, torch.device], Problem]
    dtype: torch.dtype = torch.float32
    always_warm: bool = False

    def regime(self, size: int, device: torch.device) -> memory.Regime:
        return "warm" if self.always_warm else memory.usual_regime(size * self.dtype.itemsize, device)

    def measure(self, size: int, device: torch.device, repeats: int) -> list[Row]:
        regime = self.regime(size, device)
        memory.prepare(regime, size * self.dtype.itemsize)
        problem = self.setup(size, self.dtype, device)
        check(problem)
        copy, copied = copy_contender(size, self.dtype, device)
        medians: dict[str, float] = {}
        rows: list[Row] = []
        for name, seconds in interleave(problem.contenders | {COPY: copy}, device, regime, repeats).items():
            p20, median, p80 = percentiles(seconds, 0.2, 0.5, 0.8)
            medians[name] = median
            rows.append(
                {
                    "case": self.name,
                    "size": size,
                    "dtype": str(self.dtype).removeprefix("torch."),
                    "regime": regime,
                    "contender": name,
                    "median_us": 1e6 * median,
                    "p20_us": 1e6 * p20,
                    "p80_us": 1e6 * p80,
                    "gbps": (copied if name == COPY else problem.bytes_moved) / median / 1e9,
                }
            )
        copy_gbps = copied / medians.pop(COPY) / 1e9
        best_rival = min(median for name, median in medians.items() if name != OURS)
        for row in rows:
            row["copy_fraction"] = row["gbps"] / copy_gbps
            if row["contender"] in medians:
                call = problem.contenders[row["contender"]]
                row["ratio_to_best_rival"] = best_rival / medians[row["contender"]]
                row["kept_bytes"] = memory.kept_bytes(call)
                row["peak_bytes"] = memory.peak_bytes(call, device)
        return rows


def differentiated(function: Callable[..., Tensor], inputs: Sequence[Tensor], g: Tensor) -> Contender:
    """Calls the function and, with the gradient g of its output, the backward pass. Returns output and gradients."""
    leaves = [x for x in inputs if x.requires_grad]

    def step() -> Sequence[Tensor]:
        y = function(*inputs)
        y.backward(g)
        gradients: list[Any] = [x.grad for x in leaves]
        for x in leaves:
            x.grad = None
        return y.detach(), *gradients

    return step


def forward_backward(
    functions: Mapping[str, Callable[..., Tensor]],
    inputs: Sequence[Tensor],
    g: Tensor,
    bytes_moved: int,
    allowed: float | None = None,
) -> Problem:
    """All functions with the same inputs; the reference is torch's in float64."""
    contenders = {name: differentiated(function, inputs, g) for name, function in functions.items()}
    exact = differentiated(functions["eager"], widened(*inputs), g.double())
    return Problem(contenders, exact, bytes_moved, allowed)


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same numbers in float64."""
    return tuple(x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in tensors)


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compiles for one shape, and raises instead of silently falling back to eager mode."""
    return torch.compile(function, dynamic=False, fullgraph=True)


def against(
    ours: Callable[..., Tensor], eager: Callable[..., Tensor], **others: Callable[..., Tensor]
) -> dict[str, Callable[..., Tensor]]:
    """Our function and its rivals: torch's, the same compiled, and others, to be compiled."""
    return {OURS: ours, "eager": eager} | {name: compiled(f) for name, f in ({"compile": eager} | others).items()}


def suffix(dtype: torch.dtype) -> str:
    """The suffix of a case's name for its dtype."""
    return "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"


def check(problem: Problem) -> None:
    """Refuses to time a wrong result."""
    expected = problem.reference()
    for name, call in problem.contenders.items():
        if problem.statistics is not None:
            error = problem.statistics(call()) - problem.statistics(expected)
            if not error.abs().max() <= (problem.allowed or 0):
                raise AssertionError(f"{name} draws from another distribution")
        elif problem.allowed is None:
            try:
                torch.testing.assert_close(list(call()), list(expected), check_dtype=False)
            except AssertionError as error:
                raise AssertionError(f"{name} computes something else") from error
        else:
            for got, exact in zip(call(), expected, strict=True):
                near = (got.double() - exact).abs() <= problem.allowed * exact.abs().max()
                if (~near).sum() > max(2, AT_A_KINK[got.dtype] * near.numel()):
                    raise AssertionError(f"{name} computes something else")


def copy_contender(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Contender, int]:
    """A copy into existing memory, as a measure of the machine's bandwidth, and the bytes that it moves."""
    source, target = (torch.ones(size, dtype=dtype, device=device) for _ in range(2))
    return lambda: (target.copy_(source),), 2 * source.nbytes


def interleave(
    contenders: dict[str, Contender],
    device: torch.device,
    regime: memory.Regime,
    repeats: int,
    sample_seconds: float = SAMPLE_SECONDS,
) -> dict[str, list[float]]:
    """Seconds per call, `repeats` samples of each contender."""
    calls = {}
    for name, call in contenders.items():
        seconds = min(time_calls(call, 1, device) for _ in range(3))
        calls[name] = max(1, math.ceil(sample_seconds / seconds))
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    shuffle = random.Random(0).shuffle
    for _ in range(repeats):
        shuffle(order)
        for name in order:
            contenders[name]()  # untimed, so that the previous contender does not affect the caches
            memory.forget(regime)
            samples[name].append(time_calls(contenders[name], calls[name], device))
    return samples


def time_calls(call: Contender, count: int, device: torch.device) -> float:
    """Seconds per call over `count` calls, including the device's work."""
    turns = range(count)
    synchronize(device)
    start = time.perf_counter()
    for _ in turns:
        call()
    synchronize(device)
    return (time.perf_counter() - start) / count


def percentiles(values: Sequence[float], *at: float) -> list[float]:
    return torch.tensor(values, dtype=torch.float64).quantile(torch.tensor(at, dtype=torch.float64)).tolist()
