"""The outcome of a call, and the differences between two outcomes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path

# Sums in another order differ by a few roundings of the largest value, and by 14 in second derivatives of
# linear_cross_entropy, which are differences of larger terms. Larger differences are compared with float64.
ROUNDINGS = {torch.float64: 2**19, torch.float32: 16}
# Warnings of torch about its own code.
INTERNAL = ("is deprecated. Please switch", "An output with one or more elements was resized", "is a performance drop")


@dataclass
class Outcome:
    """The results by name, or the exception, and the warnings."""

    results: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    warnings: set[str] = field(default_factory=set)


Exact = Callable[[], Outcome | None]


def observe(program: Callable[[], dict[str, Any]]) -> Outcome:
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            leaves = tree_flatten_with_path(program())[0]
        except Exception as error:
            return Outcome(error=error)
    names = ("".join(str(getattr(key, "key", f"[{getattr(key, 'idx', key)}]")) for key in path) for path, _ in leaves)
    results = dict(zip(names, (leaf for _, leaf in leaves), strict=True))
    messages = {f"{warning.category.__name__}: {warning.message}" for warning in caught}
    return Outcome(results, warnings={text for text in messages if not any(part in text for part in INTERNAL)})


def difference(ours: Outcome, theirs: Outcome, exact: Exact = lambda: None, noise: bool = False) -> str | None:
    """What is wrong with ours, or None. With `noise`, the positions of zeros may differ."""
    if ours.error or theirs.error:
        return _of_errors(ours.error, theirs.error)
    if ours.results.keys() != theirs.results.keys():
        return f"form: results {list(ours.results)}, torch's {list(theirs.results)}"
    floor = min(1.0, max(map(_scale, theirs.results.values()), default=0.0))
    for name, found in ours.results.items():
        expected = theirs.results[name]
        if isinstance(found, Tensor) and isinstance(expected, Tensor):
            wrong = _of_tensors(name, found, expected, exact, floor, noise)
        elif expected is None and isinstance(found, Tensor) and not found.count_nonzero():
            wrong = None  # zeros are as good as torch's None
        else:
            same = _plain(found) == _plain(expected)
            wrong = None if same else f"form: {name} is {_plain(found)}, torch's {_plain(expected)}"
        if wrong:
            return wrong
    if ours.warnings != theirs.warnings:
        return f"warnings: {sorted(ours.warnings)}, torch's {sorted(theirs.warnings)}"
    return None


def _of_errors(ours: Exception | None, theirs: Exception | None) -> str | None:
    if theirs is None:
        return f"rejected: {_words(ours)}"
    if ours is None:
        return f"accepted: torch raises {_words(theirs)}"
    if type(ours) is not type(theirs):
        return f"exception: {_words(ours)} where torch raises {_words(theirs)}"
    return None


def _words(error: Exception | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _plain(x: Any) -> Any:
    return f"a {type(x).__name__}" if isinstance(x, Tensor) else x


def _form(x: Tensor) -> dict[str, Any]:
    form = {"type": type(x).__name__, "dtype": x.dtype, "shape": tuple(x.shape), "device": x.device, "layout": x.layout}
    if x.layout == torch.strided:
        form |= {"neg": x.is_neg(), "conj": x.is_conj()}
    return form


def _scale(x: Any) -> float:
    """The largest finite magnitude."""
    if not isinstance(x, Tensor) or x.is_meta or x.layout != torch.strided or not x.is_floating_point():
        return 0.0
    finite = x.detach().double().nan_to_num(0.0, 0.0, 0.0)
    return finite.abs().max().item() if x.numel() else 0.0


def _of_tensors(name: str, ours: Tensor, theirs: Tensor, exact: Exact, floor: float, noise: bool) -> str | None:
    expected = _form(theirs)
    for what, found in _form(ours).items():
        if found != expected[what]:
            return f"form: {what} of {name} {found}, torch's {expected[what]}"
    if name.startswith(("output", "vjp")) and ours.requires_grad != theirs.requires_grad:
        return f"form: requires_grad of {name} {ours.requires_grad}, torch's {theirs.requires_grad}"
    if ours.layout == torch.strided:
        if name == "output" and ours.stride() != theirs.stride():
            return f"form: strides of {name} {ours.stride()}, torch's {theirs.stride()}"
        if _overlaps(ours) and not _overlaps(theirs):
            return f"form: {name} has strides {ours.stride()} and cannot be written to, torch's {theirs.stride()}"
    if ours.is_meta or ours.layout != torch.strided or ours.numel() == 0:
        return None

    def truth() -> Tensor | None:
        outcome = exact()
        x = outcome.results.get(name) if outcome else None
        return x.detach() if isinstance(x, Tensor) and x.shape == ours.shape else None

    return _of_numbers(name, ours.detach(), theirs.detach(), truth, floor, noise)


def _overlaps(x: Tensor) -> bool:
    return any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True))


def _of_numbers(
    name: str, ours: Tensor, theirs: Tensor, truth: Callable[[], Tensor | None], floor: float, noise: bool
) -> str | None:
    """floor: the minimal scale, because a small result may be the difference of numbers as large as other results"""
    if ours.is_complex():
        ours, theirs, truth = torch.view_as_real(ours), torch.view_as_real(theirs), lambda: None
    floating, dtype = ours.is_floating_point(), ours.dtype
    o, t = ours.double(), theirs.double()
    differs = ~((o == t) | (o.isnan() & t.isnan()))
    if noise:
        differs &= (o != 0) & (t != 0)
    scale = max(_scale(theirs), floor, torch.finfo(dtype).tiny if floating else 0.0)
    allowed = ROUNDINGS.get(dtype, 4) * torch.finfo(dtype).eps * scale if floating else 0.0
    wrong, errors, x = differs & ~((o - t).abs() <= allowed), "", None
    if wrong.any() and (x := truth()) is not None:
        x = x.double()
        error, theirs_error = (_error(y, x, dtype) for y in (o, t))
        wrong &= error > allowed + 1.25 * theirs_error.max()
        errors = f", errs by {error.max():.3g}, torch by {theirs_error.max():.3g}, scale {scale:.3g}"
    if name == "output" and not noise:
        wrong |= (o == 0) & (t == 0) & (o.signbit() != t.signbit())
    if not wrong.any():
        return None
    at = tuple(wrong.nonzero()[0].tolist())
    exactly = "" if x is None else f", exactly {x[at].item():.9g}"
    return f"silent: {name}{list(at)} is {o[at].item():.9g}, torch's {t[at].item():.9g}{exactly}{errors}"


def _error(found: Tensor, exact: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = exact.to(dtype).double()
    right = (found == rounded) | (found.isnan() & rounded.isnan())
    return (found - exact).abs().where(~right, 0.0).nan_to_num(nan=torch.inf)
