"""Compares every module of torchnotes.nn with torch's of the same name on the samples of torch's module_db."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_modules import ModuleInfo, module_db

from torchnotes import nn

from .case import Case
from .programs import Results, noise
from .samples import FLOATS, Sample, channels_last_3d

SAMPLES = 50  # at most, per module, dtype and mode; larger sets are thinned out


def of_modules() -> dict[str, ModuleInfo]:
    return {info.module_cls.__name__: info for info in module_db if hasattr(nn, info.module_cls.__name__)}


def names() -> list[str]:
    return list(of_modules())


def cases(name: str) -> Iterator[Case]:
    ours, theirs = getattr(nn, name), getattr(torch.nn, name)
    info = of_modules()[name]
    for training in (True, False):
        for sample, programs in _samples(info, training):
            (args, kwargs), *given = sample.args
            call = f"{Sample('', args, kwargs).words()}), ({Sample('', tuple(given), sample.kwargs).words()}"
            for program in programs:
                run = partial(_run, program, training)
                yield Case(f"{sample.name} {program.__name__}", call, ours, theirs, sample, run)


def _samples(info: ModuleInfo, training: bool) -> Iterator[tuple[Sample, tuple[Callable, ...]]]:
    name, options = info.module_cls.__name__, {"device": "cpu", "training": training}
    for dtype in (*FLOATS, torch.int64, torch.complex64):
        torch.manual_seed(0)
        try:
            found = info.module_inputs_func(info, dtype=dtype, requires_grad=dtype.is_floating_point, **options)
        except (RuntimeError, TypeError, ValueError):  # torch has no sample of this dtype
            continue
        for i in range(0, len(found), max(1, len(found) // SAMPLES)):
            if found[i].forward_input is not None:
                short = f"{str(dtype).removeprefix('torch.')} {'training' if training else 'evaluation'}"
                programs = PROGRAMS if dtype == torch.float32 else PROGRAMS[:2]
                yield _sample(f"{name}[{i}] {short}", found[i]).fresh(), programs
    if info.module_error_inputs_func is not None and training:
        errors = info.module_error_inputs_func(info, dtype=torch.float32, requires_grad=False, **options)
        for i, error in enumerate(errors):
            yield _sample(f"{name} error[{i}]", error.module_error_input), PROGRAMS[:1]


def _sample(name: str, given: Any) -> Sample:
    constructor, call = given.constructor_input, given.forward_input
    return Sample(name, ((constructor.args, constructor.kwargs), *call.args), call.kwargs)


@dataclass
class Call:
    """A module, with the same parameters and buffers for ours and torch's, and the arguments of its forward."""

    kind: type
    construct: Callable[..., Any]  # another module of a kind, which has the same options
    module: Any
    args: tuple
    kwargs: dict[str, Any]

    def __call__(self, module: Any = None) -> Any:
        return (module or self.module)(*self.args, **self.kwargs)

    def on_clone(self) -> Any:
        """In-place modules must not write to a leaf."""
        return self.module(self.args[0].clone(), *self.args[1:], **self.kwargs)

    def variables(self) -> list[Tensor]:
        inputs = [x.requires_grad_() for x in self.args[:1] if isinstance(x, Tensor) and x.is_floating_point()]
        return [*inputs, *self.module.parameters()]

    def state(self) -> dict[str, Any]:
        return dict(self.module.state_dict())


def _run(program: Callable[[Call], Results], training: bool, kind: type, sample: Sample) -> Results:
    (args, kwargs), *given = sample.args

    def construct(kind: Any, **options: Any) -> Any:
        return kind(*args, **{**kwargs, **options})

    module = construct(kind).train(training)
    if not kwargs.get("dtype"):
        floats = (x.dtype for x in given if isinstance(x, Tensor) and x.dtype.is_floating_point)
        module.to(next(floats, torch.float32))
    for i, x in enumerate(module.parameters()):
        x.data.copy_(noise(x, i))
    return program(Call(kind, construct, module, tuple(given), sample.kwargs))


def forward(call: Call) -> Results:
    y = call()
    return {"output": y, "state": call.state(), "grad": y.requires_grad}


def backward(call: Call) -> Results:
    """Runs twice, because batch normalization counts its calls."""
    variables = call.variables()
    for _ in range(2):
        y = call.on_clone()
        y.backward(noise(y))
    return {"output": y, "gradient": [x.grad for x in variables], "state": call.state()}


def double_backward(call: Call) -> Results:
    variables = call.variables()
    y = call.on_clone()
    first = torch.autograd.grad(y, variables, noise(y), create_graph=True, allow_unused=True)
    some = [g for g in first if g is not None and g.requires_grad]
    second = torch.autograd.grad(some, variables, [noise(g, 2) for g in some], allow_unused=True) if some else ()
    return {"gradient": first, "second": second}


def interleaved(call: Call) -> Results:
    """Input and module in channels_last."""
    x, *others = call.args
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else channels_last_3d(x)
    return {"output": call.module.to(memory_format=torch.channels_last)(x, *others, **call.kwargs)}


def saved(call: Call) -> Results:
    """Pickles, copies, and loads the state_dict into another module, which may be torch's."""
    call()
    copies = [pickle.loads(pickle.dumps(call.module)), copy.deepcopy(call.module)]
    for kind in (call.kind, getattr(torch.nn, call.kind.__name__)):
        file = io.BytesIO()
        torch.save(call.module.state_dict(), file)
        file.seek(0)
        other = call.construct(kind).to(torch.float64).train(call.module.training)
        other.load_state_dict(torch.load(file))
        copies.append(other.to(next((x.dtype for x in call.module.parameters()), call.args[0].dtype)))
    return {"output": [call(module) for module in copies], "state": [dict(module.state_dict()) for module in copies]}


def described(call: Call) -> Results:
    module = call.module
    on_meta = {"device": "meta", "dtype": torch.float64} if list(module.parameters()) else {}
    return {
        "repr": repr(module),
        "names": [name for name, _ in (*module.named_parameters(), *module.named_buffers())],
        "meta": dict(call.construct(call.kind, **on_meta).state_dict()),
        "constants": getattr(module, "__constants__", None),
        "training": module.training,
    }


def moved(call: Call) -> Results:
    """Converts to other dtypes and back, preserving the parameter objects."""
    before = list(call.module.parameters())
    call.module.to(torch.bfloat16).double().requires_grad_(False)
    same = [x is y for x, y in zip(before, call.module.parameters(), strict=True)]
    call.args = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in call.args)
    return {"output": call(), "same": same, "state": call.state()}


def with_hooks(call: Call) -> Results:
    module, seen = call.module, []
    module.register_forward_pre_hook(lambda m, args: seen.append(len(args)))
    module.register_forward_hook(lambda m, args, y: seen.append(tuple(y.shape)))
    module.register_full_backward_hook(lambda m, gi, go: seen.append([None if g is None else g.shape for g in gi]))
    module.register_full_backward_pre_hook(lambda m, go: seen.append([g.shape for g in go]))
    variables = call.variables()
    y = call.on_clone()
    return {"output": y, "gradient": torch.autograd.grad(y.sum(), variables, allow_unused=True), "seen": str(seen)}


def called(call: Call) -> Results:
    """Runs functional_call with other parameters."""
    state = {name: x.detach() / 2 if x.is_floating_point() else x.clone() for name, x in call.state().items()}
    y = torch.func.functional_call(call.module, state, call.args, call.kwargs)
    return {"output": y, "state": state, "own": call.state()}


def traced(call: Call) -> Results:
    return {"output": call(torch.fx.symbolic_trace(call.module) if len(call.args) == 1 else call.module)}


def scripted(call: Call) -> Results:
    return {"output": call(torch.jit.script(call.module))}


def jit_traced(call: Call) -> Results:
    args = tuple(x.detach() if isinstance(x, Tensor) else x for x in call.args)
    return {"output": torch.jit.trace(call.module, args, check_trace=False)(*args)}


def skipped(call: Call) -> Results:
    module = call.construct(partial(torch.nn.utils.skip_init, call.kind))
    return {"shapes": str([(name, x.shape) for name, x in module.state_dict().items()])}


def initialized(call: Call) -> Results:
    """Initializes from a seed."""
    torch.manual_seed(3)
    return {"state": dict(call.construct(call.kind).state_dict())}


PROGRAMS: tuple[Callable[[Call], Results], ...] = (
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
    initialized,
)
