"""Programs that call a function under torch's modes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .programs import Program, Results, backward, forward
from .samples import Sample


class _Calls(TorchFunctionMode):
    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


@contextmanager
def _deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _default_double() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CONTEXTS: dict[str, Callable[[], AbstractContextManager]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "autocast to float16": partial(torch.autocast, "cpu", torch.float16),
    "function mode": _Calls,
    "dispatch mode": _Operators,
    "deterministic": _deterministic,
    "default double": _default_double,
    "anomaly detection": partial(torch.autograd.detect_anomaly, check_nan=False),
}


def _within(context: str, function: Callable, sample: Sample, program: Program) -> Results:
    with CONTEXTS[context]():
        return program(function, sample)


def _fake(function: Callable, sample: Sample) -> Results:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        faked = sample.mapped("", mode.from_tensor)
        return {name: _described(x) for name, x in forward(function, faked).items() if name in ("output", "is")}


def _meta(function: Callable, sample: Sample) -> Results:
    return forward(function, sample.mapped("", lambda x: x.to("meta")))


def _described(x: Any) -> Any:
    return (x.dtype, tuple(x.shape), x.stride()) if isinstance(x, torch.Tensor) else x


def contexts(sample: Sample) -> dict[str, Program]:
    of_all = partial(backward, variables=sample.differentiable)
    programs: dict[str, Program] = {"fake": _fake, "meta": _meta}
    for name in CONTEXTS:
        without_graph = name in ("no_grad", "inference_mode")
        programs[name] = partial(_within, name, program=forward if without_graph else of_all)
    return programs
