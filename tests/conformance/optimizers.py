"""Compares every optimizer of torchnotes.optim with torch's of the same name on the samples of torch's optim_db."""

import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db
from torch.testing._internal.common_optimizers import _get_optim_inputs_including_global_cliquey_kwargs as inputs_of

from optimizer_programs import (
    HOOKS,
    PROGRAMS,
    SHAPES,
    Run,
    hooked,
    numbers,
    resumed_without,
    steps,
    with_state_of,
)
from torchnotes import optim
from torchnotes.testing.layouts import negated_view, transposed

from .case import Case
from .programs import Results
from .samples import FLOATS, OTHER_OPTIONS, Sample


def of_optimizers() -> dict[str, OptimizerInfo]:
    return {info.optim_cls.__name__: info for info in optim_db if hasattr(optim, info.optim_cls.__name__)}


def names() -> list[str]:
    return list(of_optimizers())


def cases(name: str) -> Iterator[Case]:
    ours, theirs = getattr(optim, name), getattr(torch.optim, name)
    for sample, what, program in _calls(of_optimizers()[name]):
        yield Case(f"{sample.name} {what}", sample.words(1), ours, theirs, sample, program, _plain(theirs))


def _plain(theirs: type) -> Callable:
    """Without torch's fused steps, which ignore strides."""

    def plain(parameters: Any, **options: Any) -> Any:
        return theirs(parameters, **{name: x for name, x in options.items() if name not in ("fused", "foreach")})

    plain.__name__ = theirs.__name__
    return plain


def _calls(info: OptimizerInfo) -> Iterator[tuple[Sample, str, Callable]]:
    name = info.optim_cls.__name__
    for dtype in (*FLOATS, torch.complex64):
        for i, given in enumerate(inputs_of("cpu", dtype, info)):
            of_dtype = f"{name}[{i}] {_short(dtype)}"
            sample = _sample(of_dtype, dtype, given.kwargs)
            yield sample, "steps", partial(_results, steps)
            if dtype == torch.float32:
                for program in (*PROGRAMS, *(partial(hooked, register=register) for register in HOOKS.values())):
                    yield sample, getattr(program, "__name__", "hooked"), partial(_results, program)
                for entry in _state_of(info.optim_cls, sample):
                    yield sample, f"without {entry}", partial(_results, partial(resumed_without, entry=entry))
                for other in FLOATS[1:]:
                    program = partial(with_state_of, dtype=other)
                    yield sample, f"state of {_short(other)}", partial(_results, program)
                for change, changed in GRADIENTS.items():
                    yield sample, f"gradients {change}", partial(_results, steps, change=changed)
                for change, changed in PARAMETERS.items():
                    yield _sample(of_dtype, dtype, given.kwargs, changed), f"of {change}", partial(_results, steps)
    if info.optim_error_inputs_func is not None:
        for i, error in enumerate(info.optim_error_inputs_func("cpu", torch.float32)):
            given = error.optimizer_error_input
            wrong = partial(constructed, params=given.params)
            yield _sample(f"{name} error[{i}]", torch.float32, given.kwargs), "constructed", wrong
    for option in list(inspect.signature(info.optim_cls).parameters)[1:]:
        for other in (*OTHER_OPTIONS, torch.tensor(0.1), torch.tensor([0.1, 0.2]), (0.9, 1.0), (0.5,), ("a", 0.9)):
            kwargs = {option: other}
            yield _sample(f"{name} {option}={other!r:.30}", torch.float32, kwargs), "steps", partial(_results, steps)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sample(name: str, dtype: torch.dtype, kwargs: dict, layout: Callable[[Tensor], Tensor] = torch.clone) -> Sample:
    """A sample whose arguments are the parameters and the options."""
    return Sample(name, (tuple(layout(numbers(shape, dtype, i + 1)) for i, shape in enumerate(SHAPES)),), kwargs)


def _results(
    program: Callable[[Run], None], kind: type, sample: Sample, change: Callable[[Tensor], Any] = lambda g: g
) -> Results:
    run = Run(kind, sample.args[0], sample.kwargs, change)
    program(run)
    return run.results()


def constructed(kind: type, sample: Sample, params: Any) -> Results:
    parameters = [torch.nn.Parameter(torch.ones(1))] if params is None else params
    optimizer = kind(parameters, **sample.kwargs)
    optimizer.step()
    return {"groups": len(optimizer.param_groups)}


def _state_of(kind: type, sample: Sample) -> list[str]:
    run = Run(kind, sample.fresh().args[0], sample.kwargs)
    run.step()
    return [*run.states()[0], *(name for name in run.optimizer.param_groups[0] if name != "params")]


def _with(value: float) -> Callable[[Tensor], Tensor]:
    def changed(g: Tensor) -> Tensor:
        g = g.clone()
        g.view(-1)[:1] = value
        return g

    return changed


GRADIENTS: dict[str, Callable[[Tensor], Any]] = {
    "transposed": transposed,
    "negative views": negated_view,
    "zero tensors": lambda g: torch._efficientzerotensor(g.shape, dtype=g.dtype),
    "expanded": lambda g: g.flatten()[:1].squeeze().expand(g.shape) if g.numel() else g,
    "sparse": lambda g: g.to_sparse(),
    "requiring gradients": lambda g: g.clone().requires_grad_(),
    "of a graph": lambda g: g.clone().requires_grad_() * 1,
    "infinite": _with(math.inf),
    "nan": _with(math.nan),
    "huge": _with(3e38),
    "subnormal": _with(1e-42),
    "zero": torch.zeros_like,
}
PARAMETERS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed parameters": transposed,
    "strided parameters": lambda x: torch.stack((x, x), -1)[..., 0],
    "negative views": negated_view,
}
