"""Compares every module of torchnotes.nn with torch's of the same name on the samples of torch's module_db."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_modules import ModuleInfo, module_db

from torchnotes import nn

from .case import Case
from .programs import Results, noise
from .samples import FLOATS, Sample, channels_last_3d

SAMPLES = 150  # at most, per module, dtype and mode; larger sets are thinned out


def of_modules() -> dict[str, ModuleInfo]:
    return {info.module_cls.__name__: info for info in module_db if hasattr(nn, info.module_cls.__name__)}


def names() -> list[str]:
    return list(of_modules())


def cases(name: str) -> Iterator[Case]:
    ours, theirs = getattr(nn, name), getattr(torch.nn, name)
    for sample, what, program in _calls(of_modules()[name]):
        yield Case(f"{sample.name} {what}", _words(sample), ours, theirs, sample, program)


def _words(sample: Sample) -> str:
    (args, kwargs), *given = sample.args
    return f"{Sample('', args, kwargs).words()}), ({Sample('', tuple(given), sample.kwargs).words()}"


def _calls(info: ModuleInfo) -> Iterator[tuple[Sample, str, Callable]]:
    name = info.module_cls.__name__
    for training in (True, False):
        for dtype in (*FLOATS, torch.int64, torch.complex64):
            torch.manual_seed(0)
            try:
                found = info.module_inputs_func(
                    info, device="cpu", dtype=dtype, requires_grad=dtype.is_floating_point, training=training
                )
            except (RuntimeError, TypeError, ValueError):  # torch has no sample of this dtype
                continue
            every = max(1, len(found) // SAMPLES)
            for i, given in enumerate(found):
                if i % every or given.forward_input is None:
                    continue
                short = f"{str(dtype).removeprefix('torch.')} {'training' if training else 'evaluation'}"
                made = given.constructor_input
                args = ((made.args, made.kwargs), *given.forward_input.args)
                sample = Sample(f"{name}[{i}] {short}", args, given.forward_input.kwargs).fresh()
                for program in PROGRAMS if dtype in FLOATS[:2] else PROGRAMS[:2]:
                    yield sample, program.__name__, partial(program, training=training)
    if info.module_error_inputs_func is not None:
        for i, error in enumerate(
            info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
        ):
            given = error.module_error_input
            forward_input = given.forward_input
            args = ((given.constructor_input.args, given.constructor_input.kwargs), *forward_input.args)
            yield Sample(f"{name} error[{i}]", args, forward_input.kwargs), "forward", partial(forward, training=True)


def _made(kind: type, sample: Sample, training: bool) -> tuple[Any, tuple]:
    """A module, with the same parameters and buffers for ours and torch's, and its arguments."""
    (args, kwargs), *given = sample.args
    module = kind(*args, **kwargs).train(training)
    dtype = next((x.dtype for x in given if isinstance(x, Tensor) and x.dtype.is_floating_point), torch.float32)
    if not kwargs.get("dtype"):
        module.to(dtype)
    for i, x in enumerate(module.parameters()):
        x.data.copy_(noise(x, i))
    return module, tuple(given)


def _variables(module: Any, given: tuple) -> list[Tensor]:
    inputs = [x.requires_grad_() for x in given[:1] if isinstance(x, Tensor) and x.is_floating_point()]
    return [*inputs, *module.parameters()]


def _state(module: Any) -> dict[str, Any]:
    return dict(module.state_dict())


def forward(kind: type, sample: Sample, training: bool) -> Results:
    module, given = _made(kind, sample, training)
    y = module(*given, **sample.kwargs)
    return {"output": y, "state": _state(module), "grad": y.requires_grad}


def backward(kind: type, sample: Sample, training: bool) -> Results:
    """Runs twice, because batch normalization counts its calls."""
    module, given = _made(kind, sample, training)
    variables = _variables(module, given)
    for _ in range(2):
        clones = (given[0].clone(), *given[1:])  # in-place modules must not write to a leaf
        y = module(*clones, **sample.kwargs)
        y.backward(noise(y))
    return {"output": y, "gradient": [x.grad for x in variables], "state": _state(module)}


def double_backward(kind: type, sample: Sample, training: bool) -> Results:
    module, given = _made(kind, sample, training)
    variables = _variables(module, given)
    y = module(given[0].clone(), *given[1:], **sample.kwargs)
    first = torch.autograd.grad(y, variables, noise(y), create_graph=True, allow_unused=True)
    some = [g for g in first if g is not None and g.requires_grad]
    second = torch.autograd.grad(some, variables, [noise(g, 2) for g in some], allow_unused=True) if some else ()
    return {"gradient": first, "second": second}


def interleaved(kind: type, sample: Sample, training: bool) -> Results:
    """Input and module in channels_last."""
    module, given = _made(kind, sample, training)
    x = given[0]
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else channels_last_3d(x)
    return {"output": module.to(memory_format=torch.channels_last)(x, *given[1:], **sample.kwargs)}


def saved(kind: type, sample: Sample, training: bool) -> Results:
    """Pickles, copies, and loads the state_dict into another module, which may be torch's."""
    module, given = _made(kind, sample, training)
    module(*given, **sample.kwargs)
    copies = [pickle.loads(pickle.dumps(module)), copy.deepcopy(module)]
    (args, kwargs), *_ = sample.args
    for other in (kind, getattr(torch.nn, kind.__name__)):
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        copies.append(other(*args, **kwargs).to(torch.float64).train(training))
        copies[-1].load_state_dict(torch.load(file))
        copies[-1].to(next((x.dtype for x in module.parameters()), given[0].dtype))
    return {"output": [m(*given, **sample.kwargs) for m in copies], "state": [_state(m) for m in copies]}


def described(kind: type, sample: Sample, training: bool) -> Results:
    module, _ = _made(kind, sample, training)
    (args, kwargs), *_ = sample.args
    on_meta = {"device": "meta", "dtype": torch.float64} if list(module.parameters()) else {}
    other = kind(*args, **{**kwargs, **on_meta})
    return {
        "repr": repr(module),
        "names": [name for name, _ in (*module.named_parameters(), *module.named_buffers())],
        "meta": _state(other),
        "constants": getattr(module, "__constants__", None),
        "training": module.training,
    }


def moved(kind: type, sample: Sample, training: bool) -> Results:
    """Converts to other dtypes and back, preserving the parameter objects."""
    module, given = _made(kind, sample, training)
    before = list(module.parameters())
    module.to(torch.bfloat16).double().requires_grad_(False)
    kept = [x is y for x, y in zip(before, module.parameters(), strict=True)]
    cast = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given]
    return {"output": module(*cast, **sample.kwargs), "kept": kept, "state": _state(module)}


def with_hooks(kind: type, sample: Sample, training: bool) -> Results:
    module, given = _made(kind, sample, training)
    heard: list[Any] = []
    module.register_forward_pre_hook(lambda m, args: heard.append(len(args)))
    module.register_forward_hook(lambda m, args, y: heard.append(tuple(y.shape)))
    module.register_full_backward_hook(lambda m, gi, go: heard.append([None if g is None else g.shape for g in gi]))
    module.register_full_backward_pre_hook(lambda m, go: heard.append([g.shape for g in go]))
    variables = _variables(module, given)
    y = module(given[0] * 1, *given[1:], **sample.kwargs)
    return {"output": y, "gradient": torch.autograd.grad(y.sum(), variables, allow_unused=True), "heard": str(heard)}


def called(kind: type, sample: Sample, training: bool) -> Results:
    """Runs functional_call with other parameters."""
    module, given = _made(kind, sample, training)
    state = {name: x.detach() / 2 if x.is_floating_point() else x.clone() for name, x in _state(module).items()}
    y = torch.func.functional_call(module, state, given, sample.kwargs)
    return {"output": y, "state": state, "own": _state(module)}


def traced(kind: type, sample: Sample, training: bool) -> Results:
    module, given = _made(kind, sample, training)
    net = torch.fx.symbolic_trace(module) if len(given) == 1 else module
    return {"output": net(*given, **sample.kwargs)}


def scripted(kind: type, sample: Sample, training: bool) -> Results:
    module, given = _made(kind, sample, training)
    return {"output": torch.jit.script(module)(*given, **sample.kwargs)}


def jit_traced(kind: type, sample: Sample, training: bool) -> Results:
    module, given = _made(kind, sample, training)
    given = tuple(x.detach() if isinstance(x, Tensor) else x for x in given)
    return {"output": torch.jit.trace(module, given, check_trace=False)(*given)}


def skipped(kind: type, sample: Sample, training: bool) -> Results:
    (args, kwargs), *_ = sample.args
    module = torch.nn.utils.skip_init(kind, *args, **kwargs)
    return {"shapes": str([(name, x.shape) for name, x in module.state_dict().items()])}


def initialised(kind: type, sample: Sample, training: bool) -> Results:
    """Initializes from a seed."""
    (args, kwargs), *_ = sample.args
    torch.manual_seed(3)
    return {"state": _state(kind(*args, **kwargs))}


PROGRAMS: tuple[Callable, ...] = (
    forward,
    backward,
    double_backward,
    interleaved,
    saved,
    described,
    moved,
    with_hooks,
    called,
    traced,
    scripted,
    jit_traced,
    skipped,
    initialised,
)
