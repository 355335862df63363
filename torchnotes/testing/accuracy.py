"""How close a result must come to the exact one."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Relative and absolute tolerance of a single result: a few roundings. `check_error` is the sharp comparison.
TOLERANCE = {
    torch.float64: (1e-13, 1e-15),
    torch.float32: (6e-7, 1e-7),
    torch.float16: (2e-3, 1e-6),
    torch.bfloat16: (1.6e-2, 1e-6),
}
Results = dict[str, Tensor]
Figures = dict[str, Any]


def scale_of(name: str, exact: Tensor, sample: dict[str, Any], g: Tensor | None) -> float:
    """The size of the terms that a result is summed from, whose roundings it inherits."""
    if exact.numel() == 0:
        return 0.0
    largest = _largest(exact)
    if name == "output":
        return largest + _largest(sample["input"])
    if name.startswith("gradient") and g is not None:
        return largest + _finite(g).abs().sum().item() / exact.numel()
    return largest


def _finite(x: Tensor) -> Tensor:
    x = x.detach().double()
    return x.where(x.isfinite(), 0)


def _largest(x: Tensor) -> float:
    return _finite(x).abs().max().item() if x.numel() else 0.0


def assert_accurate(
    found: Results,
    exact: Results,
    sample: dict[str, Any],
    g: Tensor | None,
    theirs: Results | None = None,
    elementwise: bool = False,
    least_rtol: float = 0.0,
) -> None:
    """Each result is exact but for a few roundings, and 1.25 times the error of torch's own result."""
    for name, true in exact.items():
        got = found[name]
        rtol, atol = TOLERANCE[got.dtype]
        rtol = max(rtol, least_rtol)
        assert got.shape == true.shape, f"{name}: got size {tuple(got.shape)}, expected {tuple(true.shape)}"
        rounded = true.to(got.dtype).double()
        allowed = atol + rtol * rounded.abs()
        if not elementwise:
            allowed = allowed + 2 * rtol * scale_of(name, true, sample, g)
        if theirs is not None and (not elementwise or name != "output"):
            assert got.dtype == theirs[name].dtype, f"{name}: got {got.dtype}, torch has {theirs[name].dtype}"
            allowed = allowed + (1.25 * (theirs[name].double() - rounded).abs()).nan_to_num(posinf=0.0)
        got = got.double()
        right = (got == rounded) | (got.isnan() & rounded.isnan()) | ((got - rounded).abs() <= allowed)
        wrong = ~right
        assert not wrong.any(), (
            f"{name}: got {got[wrong][:4].tolist()}, expected {rounded[wrong][:4].tolist()} "
            f"within {allowed.expand_as(got)[wrong][:4].tolist()}"
        )


def errors(found: Tensor, exact: Tensor, dtype: torch.dtype, alone: bool) -> Tensor:
    """In units of the last place of each number, or in eps of the largest: one rounding is half a unit.

    Numbers below the least normal one count in its last place: there torch's own errors are thousands of units.
    """
    rounded = exact.to(found.dtype)
    if alone:
        size = rounded.abs().clamp(min=torch.finfo(found.dtype).tiny)
        unit = torch.nextafter(size, torch.full_like(size, math.inf)).double() - size.double()
    else:
        unit = torch.finfo(dtype).eps * exact.abs().max().clamp(min=torch.finfo(dtype).tiny)
    overflows = rounded.isinf() & (found == rounded)
    return ((found.double() - exact).abs() / unit).where(~overflows, 0.0).nan_to_num(nan=math.inf, posinf=math.inf)


@dataclass(frozen=True)
class Bound:
    """An error passes that is ``mean`` times torch's in the root mean square, and ``largest`` times torch's at most.

    ``roundings`` are added to the largest error, in eps, and ``few`` instead where fewer than 1000 numbers are
    compared. ``share`` is added to the root mean square.
    """

    mean: float
    largest: float
    roundings: float
    few: float
    share: float


# The root mean square of 16-bit results may exceed torch's by a quarter, and sums of a few dozen rows differ as much by
# chance; gradients of a mean share the rounding of one factor. The largest error is mostly chance.
CHANCE = Bound(mean=1.25, largest=2.5, roundings=0.5, few=2.5, share=0.02)
# Two correctly rounded results tie within chance. float16 results are rounded from float32, whose own errors may move a
# tie by 1/4096 of a unit.
ALONE = Bound(mean=1.001, largest=1.0, roundings=2**-12, few=2**-12, share=0.0)


def compared(what: str, ours: Tensor, theirs: Tensor, bound: Bound = CHANCE) -> Figures:
    """The largest and the mean error, next to torch's. `times` above 1 fails."""
    if ours.numel() == 0:
        return {"of": what, "ours": 0.0, "torch": 0.0, "rms": 0.0, "rms_torch": 0.0, "times": 0.0}
    rms, rms_theirs = (e.square().mean().sqrt().item() for e in (ours, theirs))
    largest, largest_theirs = ours.max().item(), theirs.max().item()
    many = ours.numel() >= 1000
    times = _ratio(largest, bound.largest * largest_theirs + (bound.roundings if many else bound.few))
    if many:
        times = max(times, _ratio(rms, bound.mean * rms_theirs + bound.share))
    if not math.isfinite(largest):
        times = math.inf
    if not math.isfinite(largest_theirs):  # torch's sum overflows in 16 bits
        times = 0.0
    return {"of": what, "ours": largest, "torch": largest_theirs, "rms": rms, "rms_torch": rms_theirs, "times": times}


def _ratio(error: float, allowed: float) -> float:
    return error / allowed if allowed else math.inf if error else 0.0


class Inaccurate(AssertionError):
    """An error larger than allowed, and the figures."""

    def __init__(self, message: str, figures: Figures) -> None:
        super().__init__(message)
        self.figures = figures


def judged(measured: list[Figures]) -> Figures:
    """The case that compares worst, and all of them."""
    worst = max(measured, key=lambda figures: figures["times"])
    figures = {**worst, "cases": measured}
    if not worst["times"] <= 1:
        largest = f"up to {worst['ours']:.3g} eps (torch {worst['torch']:.3g})"
        mean = f"{worst['rms']:.3g} (torch {worst['rms_torch']:.3g}) in the root mean square"
        raise Inaccurate(f"{worst['of']} errs by {largest}, {mean}", figures)
    return figures
