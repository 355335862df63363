"""The arguments of calls: torch's own samples, also in other layouts, with special values, and invalid ones."""

import copy
import itertools
import math
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from torchnotes.testing.layouts import channels_last, expanded, negated_view, offset_by_one, sliced, strided, transposed

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OTHERS = (torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn)
HUGE = 3e38
OTHER_OPTIONS = (None, 0, -1, 1, 2.5, math.nan, math.inf, True, "mean", "no", [1.0], (), torch.float64, object)
SPECIAL = (0.0, -0.0, 1e-42, -1e-30, 88.0, -104.0, 1e4, HUGE, -HUGE, float("inf"), float("-inf"), float("nan"))


@dataclass(frozen=True)
class Sample:
    name: str
    args: tuple
    kwargs: dict[str, Any]
    differentiable: tuple[int, ...] = ()  # the leaves that torch is differentiable by

    def fresh(self) -> "Sample":
        """A copy whose tensors have the same memory layout."""
        args, kwargs = tree_map(lambda x: copy.deepcopy(x.detach()) if isinstance(x, Tensor) else x, self._both)
        return replace(self, args=args, kwargs=kwargs)

    @property
    def _both(self) -> tuple:
        return self.args, self.kwargs

    @property
    def leaves(self) -> list:
        return tree_flatten(self._both)[0]

    def floating(self) -> list[int]:
        """The indices of leaves that are floating-point or complex tensors."""
        dtypes = {i: x.dtype for i, x in enumerate(self.leaves) if isinstance(x, Tensor)}
        return [i for i, dtype in dtypes.items() if dtype.is_floating_point or dtype.is_complex]

    def given(self, changed: dict[int, Any], name: str = "") -> "Sample":
        leaves, spec = tree_flatten(self._both)
        args, kwargs = tree_unflatten([changed.get(i, x) for i, x in enumerate(leaves)], spec)
        return replace(self, name=f"{self.name} {name}" if name else self.name, args=args, kwargs=kwargs)

    def mapped(self, name: str, function: Callable[[Tensor], Tensor]) -> "Sample":
        return self.given({i: function(x) for i, x in enumerate(self.leaves) if isinstance(x, Tensor)}, name)

    def cast(self, dtype: torch.dtype, name: str = "") -> "Sample":
        """A copy with another dtype, including the option `dtype`."""
        cast = self.given({i: self.leaves[i].to(dtype) for i in self.floating()}, name)
        wider = {"dtype": dtype} if isinstance(self.kwargs.get("dtype"), torch.dtype) else {}
        return replace(cast, kwargs={**cast.kwargs, **wider})

    def words(self, skipped: int = 0) -> str:
        words = [_word(x) for x in self.args[skipped:]]
        return ", ".join(words + [f"{name}={_word(x)}" for name, x in self.kwargs.items()])


def _word(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
    return x.__name__ if isinstance(x, type) else reprlib.repr(x).replace("\n", " ")


def of_opinfo(info: OpInfo, dtype: torch.dtype, most: int) -> list[Sample]:
    """At most `most` samples, evenly spaced."""
    torch.manual_seed(0)
    found = list(info.sample_inputs("cpu", dtype, requires_grad=True))
    numbers = range(0, len(found), -(-len(found) // most))
    variant = f".{info.variant_test_name}" if info.variant_test_name else ""
    name = info.name.split(".")[-1] + variant
    short = str(dtype).removeprefix("torch.")
    return [_of_input(f"{name}[{i}] {short}", found[i]) for i in numbers]


def _of_input(name: str, given: SampleInput) -> Sample:
    sample = Sample(name, (given.input, *given.args), given.kwargs)
    return replace(sample, differentiable=tuple(i for i in sample.floating() if sample.leaves[i].requires_grad)).fresh()


def in_layouts(sample: Sample) -> Iterator[Sample]:
    """Changes the layout of all tensors, or of the first one."""
    for layout in (transposed, strided, sliced, offset_by_one, channels_last, expanded, negated_view, channels_last_3d):

        def changed(x: Tensor, layout: Callable = layout) -> Tensor:
            return layout(x) if x.is_floating_point() and x.numel() else x

        yield sample.mapped(layout.__name__, changed)
        yield sample.given({0: changed(sample.leaves[0])}, f"{layout.__name__}_input")
    input = sample.leaves[0]
    if input.dim() and input.shape[0]:
        n = input.shape[0]
        yield sample.mapped("empty", lambda x: x[:0] if x.dim() and x.shape[0] == n else x)
        yield sample.mapped("one", lambda x: x[:1] if x.dim() and x.shape[0] == n else x)
        yield sample.mapped("zero_dim", lambda x: x[0] if x.dim() and x.shape[0] == n else x)
        yield sample.mapped("scalar", lambda x: x.flatten()[0] if x.numel() else x)
    if input.dim() == 4:
        for cut in ((slice(None), slice(0, 1)), (..., slice(0, 1)), (..., slice(0, 1), slice(0, 1))):
            part = input[cut]
            yield sample.given(
                {0: part.contiguous(memory_format=torch.channels_last)}, f"channels_last{list(part.shape)}"
            )


def channels_last_3d(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d) if x.dim() == 5 else x.clone()


def with_special_values(sample: Sample) -> Iterator[Sample]:
    """Replaces one element of one tensor, or all elements of the first tensor."""
    for i in sample.floating():
        for value in SPECIAL if sample.leaves[i].numel() else ():
            x = sample.leaves[i].clone(memory_format=torch.contiguous_format)
            x.view(-1)[0] = _within(value, x.dtype)
            yield sample.given({i: x}, f"{value:g}@{i}")
    for value in (0.0, HUGE, float("-inf")):
        x = sample.leaves[0]
        yield sample.given({0: torch.full_like(x, _within(value, x.dtype))}, f"all {value:g}")


def _within(value: float, dtype: torch.dtype) -> float:
    most = torch.finfo(dtype).max
    return max(-most, min(value, most)) if abs(value) == HUGE else value


class Subclass(Tensor):
    """Operations return the subclass."""


def of_wrong_kinds(sample: Sample) -> Iterator[Sample]:
    """Gives one argument another type, size, dtype or device."""
    for i, x in enumerate(sample.leaves):
        if isinstance(x, Tensor):
            for name, changed in _other_tensors(x):
                yield sample.given({i: changed}, f"{name}@{i}")
    leaves = sample.args, sample.kwargs
    for place, value in itertools.chain(enumerate(leaves[0]), leaves[1].items()):
        for other in OTHER_OPTIONS:
            if type(other) is type(value) and other == value:
                continue
            word = getattr(other, "__name__", repr(other))
            if isinstance(place, int):
                args = (*sample.args[:place], other, *sample.args[place + 1 :])
                yield replace(sample, name=f"{sample.name} {place}={word}", args=args)
            else:
                kwargs = {**sample.kwargs, place: other}
                yield replace(sample, name=f"{sample.name} {place}={word}", kwargs=kwargs)
    for n in range(len(sample.args)):
        yield Sample(f"{sample.name} first {n}", sample.args[:n], sample.kwargs)
    yield Sample(f"{sample.name} no_such", sample.args, {**sample.kwargs, "no_such": 1})
    yield Sample(f"{sample.name} one more", (*sample.args, *[1] * 9), sample.kwargs)


def _other_tensors(x: Tensor) -> Iterator[tuple[str, Any]]:
    for dtype in (*FLOATS, *OTHERS):
        if dtype != x.dtype:
            yield str(dtype).removeprefix("torch."), x.to(dtype)
    yield "meta", x.to("meta")
    yield "sparse", x.to_sparse()
    yield "parameter", torch.nn.Parameter(x, requires_grad=False)
    yield "subclass", x.as_subclass(Subclass)
    yield "list", x.tolist()
    yield "numpy", x.float().numpy()
    yield "unsqueezed", x[None]
    yield "unsqueezed_last", x[..., None]
    yield "flat", x.flatten()
    yield "item", x.flatten()[:1].squeeze()
    if x.dim():
        yield "first", x[:1]
        yield "longer", torch.cat([x, x[:1]])
        yield "first_last", x[..., :1]
        yield "longer_last", torch.cat([x, x[..., :1]], -1)
        yield "empty", x[:0]
        yield "empty_last", x[..., :0]
    if not x.is_floating_point() and x.numel():
        for value in (-1, -100, 10**6):
            yield f"{value}", torch.cat([x.flatten()[1:], x.new_full((1,), value)]).view(x.shape)
