"""Programs that call a function under torch's modes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import BaseTorchFunctionMode
from torch.testing._internal.common_utils import DeterministicGuard, set_default_dtype
from torch.utils._python_dispatch import BaseTorchDispatchMode

from .programs import Program, Results, backward, forward
from .samples import Sample

CONTEXTS: dict[str, Callable[[], AbstractContextManager]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "autocast to float16": partial(torch.autocast, "cpu", torch.float16),
    "function mode": BaseTorchFunctionMode,
    "dispatch mode": BaseTorchDispatchMode,
    "deterministic": partial(DeterministicGuard, True),
    "default double": partial(set_default_dtype, torch.float64),
    "anomaly detection": partial(torch.autograd.detect_anomaly, check_nan=False),
}


def _within(context: str, function: Callable, sample: Sample, program: Program) -> Results:
    with CONTEXTS[context]():
        return program(function, sample)


def _fake(function: Callable, sample: Sample) -> Results:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        faked = sample.mapped("", mode.from_tensor)
        results = forward(function, faked)
    y = results["output"]
    return {"output": (y.dtype, tuple(y.shape), y.stride()), "is": results["is"]}


def _meta(function: Callable, sample: Sample) -> Results:
    return forward(function, sample.mapped("", lambda x: x.to("meta")))


def contexts(sample: Sample) -> dict[str, Program]:
    of_all = partial(backward, variables=sample.differentiable)
    programs: dict[str, Program] = {"fake": _fake, "meta": _meta}
    for name in CONTEXTS:
        without_graph = name in ("no_grad", "inference_mode")
        programs[name] = partial(_within, name, program=forward if without_graph else of_all)
    return programs
