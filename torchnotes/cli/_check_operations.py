"""The checks of an operation that has derivatives: gradcheck, second order, accuracy, and agreement with torch."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ._check_arguments import Draw

Figures = dict[str, Any]
BUFFERS = ("running_mean", "running_var")  # which a call may change
SMALL, ODD = (2, 3), ((5, 7), (2, 1), (33, 67))
LARGE = (1000, 30)


class Failed(AssertionError):
    """A check that failed for what was measured."""

    def __init__(self, message: str, figures: Figures) -> None:
        super().__init__(message)
        self.figures = figures


@dataclass(frozen=True)
class Setup:
    device: torch.device
    seed: int


class Record:
    """What is checked of one public function, `ours`. A check returns its figures and raises where it fails; it returns
    None where there is nothing to check."""

    def gradcheck(self, ours: Callable, setup: Setup) -> Figures | None:
        return None

    def second_order(self, ours: Callable, setup: Setup) -> Figures | None:
        return None

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures | None:
        return None

    def agreement(self, ours: Callable, setup: Setup) -> Figures | None:
        return None


@dataclass(frozen=True)
class Operation(Record):
    """An operation as data. All arguments go by their names; one that is a function is made by it, of a Draw."""

    reference: Callable[..., Tensor]  # torch's own, or the shortest composition of torch's
    arguments: dict[str, Any]
    options: tuple[dict[str, Any], ...] = ({},)
    differentiable_once: tuple[dict[str, Any], ...] = ()  # options that leave no second derivative
    beside_torch: tuple[dict[str, Any], ...] = ()  # options for the agreement alone
    scales: tuple[float, ...] = (1.0,)  # of the input, where its accuracy is measured
    elementwise: bool = False  # whether the error of each value is measured by that value, not by the greatest

    def samples(self, options: tuple, size: tuple[int, int], scale: float = 1.0) -> Iterator[dict]:
        draw = Draw(*size, scale)
        for option in options:
            made = {**self.arguments, **option}
            yield {name: value(draw) if callable(value) else value for name, value in made.items()}

    def gradcheck(self, ours: Callable, setup: Setup) -> Figures | None:
        options = (*self.options, *self.differentiable_once)
        for option, sample in zip(options, self.samples(options, SMALL), strict=True):
            function, variables = _of_variables(ours, cast(sample, torch.float64, setup.device))
            with told(words(option)):
                gradcheck(
                    function,
                    variables,
                    check_forward_ad=True,
                    check_batched_grad=True,
                    check_batched_forward_grad=True,
                )
        return {"options": len(options)}

    def second_order(self, ours: Callable, setup: Setup) -> Figures | None:
        for option, sample in zip(self.options, self.samples(self.options, SMALL), strict=True):
            function, variables = _of_variables(ours, cast(sample, torch.float64, setup.device))
            with told(words(option)):
                gradgradcheck(function, variables, check_fwd_over_rev=True, check_rev_over_rev=True)
        return {"options": len(self.options)}

    def accuracy(self, ours: Callable, setup: Setup, dtype: torch.dtype) -> Figures | None:
        measured = []
        for scale in self.scales:
            for option, sample in zip(self.options, self.samples(self.options, LARGE, scale), strict=True):
                given = cast(sample, dtype, setup.device)
                exact = results(self.reference, cast(given, torch.float64, setup.device), dtype)
                with told(words(option)):
                    got, other = results(ours, given, dtype), results(self.reference, given, dtype)
                    for name, true in exact.items():
                        by_itself = self.elementwise and name == "value"
                        errors = [error(found[name], true, dtype, by_itself) for found in (got, other)]
                        measured.append(beside(f"{name} of {words(option)}, scale {scale:g}", *errors))
        return judged(measured)

    def agreement(self, ours: Callable, setup: Setup) -> Figures | None:
        options = (*self.options, *self.differentiable_once, *self.beside_torch)
        for dtype in (torch.float64, torch.float32):
            for size in ODD:
                for option, sample in zip(options, self.samples(options, size), strict=True):
                    for layout in (lambda x: x, _transposed):
                        given = cast(sample, dtype, setup.device, layout)
                        with told(words(option)):
                            expected = results(self.reference, given, dtype)
                            assert_same(results(ours, given, dtype), expected)
                            with torch.no_grad():  # where no graph is wanted, other code runs
                                y, arguments = call(ours, given)
                            assert_same({"value": y}, {"value": expected["value"]})
                            if option.get("inplace") and y.data_ptr() != arguments["input"].data_ptr():
                                raise AssertionError("the output has memory of its own")
        return {"options": len(options)}


def cast(
    sample: dict, dtype: torch.dtype, device: torch.device, layout: Callable[[Tensor], Tensor] = lambda x: x
) -> dict:
    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        like = dtype if x.is_floating_point() else x.dtype
        return layout(x.detach().to(device, like)).requires_grad_(x.requires_grad)

    return {name: one(x) for name, x in sample.items()}


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() > 1 else x


def call(function: Callable[..., Tensor], sample: dict) -> tuple[Tensor, dict]:
    """The value, and the arguments after the call, in which what may be written to is a copy."""
    given = dict(sample)
    if sample.get("inplace") or sample.get("inplace_backward"):
        given["input"] = sample["input"].clone()
    for name in BUFFERS:
        if sample.get(name) is not None:
            given[name] = sample[name].clone()
    return function(**given), given


def results(function: Callable[..., Tensor], sample: dict, dtype: torch.dtype) -> dict[str, Tensor]:
    """The value, the gradients along one that numbers of dtype hold, and the running statistics."""
    y, given = call(function, sample)
    variables = _variables(sample)
    g = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(y.numel()))
    g = g.to(y.device, dtype).to(y.dtype)
    gradients = torch.autograd.grad(y, list(variables.values()), g, allow_unused=True, materialize_grads=True)
    named = {f"gradient by {name}": dx for name, dx in zip(variables, gradients, strict=True)}
    return {"value": y.detach(), **named, **{name: given[name] for name in BUFFERS if given.get(name) is not None}}


def _variables(sample: dict) -> dict[str, Tensor]:
    return {name: x for name, x in sample.items() if isinstance(x, Tensor) and x.requires_grad}


def _of_variables(function: Callable, sample: dict) -> tuple[Callable, tuple[Tensor, ...]]:
    """The same as a function of the tensors that have a gradient."""
    variables = _variables(sample)

    def of_variables(*given: Tensor) -> Tensor:
        return call(function, {**sample, **dict(zip(variables, given, strict=True))})[0]

    return of_variables, tuple(variables.values())


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, other in expected.items():
        try:
            torch.testing.assert_close(found[name], other, equal_nan=True)
        except AssertionError as error:
            raise AssertionError(f"{name}: {' '.join(str(error).split())}") from error


def error(found: Tensor, exact: Tensor, dtype: torch.dtype, by_itself: bool = False) -> Tensor:
    """In units of eps times the exact number, or times the greatest of them: half of one is a rounding."""
    size = exact.abs() if by_itself else exact.abs().max()
    unit = torch.finfo(dtype).eps * size.clamp(min=torch.finfo(dtype).tiny)
    errors = (found.double() - exact).abs() / unit
    overflown = exact.to(found.dtype)
    right = overflown.isinf() & (found == overflown)
    return errors.where(~right, 0.0).nan_to_num(nan=math.inf, posinf=math.inf)


def beside(what: str, ours: Tensor, theirs: Tensor) -> Figures:
    """Our error beside torch's; `times` is by how much it is greater than what passes.

    The root of the mean square may be a quarter more: what is promised for 16 bits, and what the sums of some tens of
    rows differ by chance; and 0.02 eps: the gradients of a mean share a factor, and its rounding. The greatest error is
    chance above all: where there are few, by some roundings.
    """
    rms, rms_theirs = (errors.square().mean().sqrt().item() for errors in (ours, theirs))
    greatest, greatest_theirs = ours.max().item(), theirs.max().item()
    many = ours.numel() >= 1000
    times = greatest / (2.5 * greatest_theirs + (0.5 if many else 2.5))
    if many:
        times = max(times, rms / (1.25 * rms_theirs + 0.02))
    if not math.isfinite(greatest):
        times = math.inf
    if not math.isfinite(greatest_theirs):  # a sum that overflows with 16 bits
        times = 0.0
    return {"of": what, "ours": greatest, "torch": greatest_theirs, "rms": rms, "rms_torch": rms_theirs, "times": times}


def judged(measured: list[Figures]) -> Figures:
    """The case that comes out worst, and all of them."""
    worst = max(measured, key=lambda figures: figures["times"])
    figures = {**worst, "cases": measured}
    if not worst["times"] <= 1:
        greatest = f"up to {worst['ours']:.3g} eps (torch {worst['torch']:.3g})"
        mean = f"{worst['rms']:.3g} (torch {worst['rms_torch']:.3g}) in the root of the mean square"
        raise Failed(f"{worst['of']} errs by {greatest}, {mean}", figures)
    return figures


def words(options: dict[str, Any]) -> str:
    named = (f"{name}={value.__name__ if callable(value) else repr(value)}" for name, value in options.items())
    return ", ".join(named) or "defaults"


@contextmanager
def told(what: str) -> Iterator[None]:
    """Says of an error where it came."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{what}: {error}") from error
