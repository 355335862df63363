"""Compares every optimizer of torchnotes.optim with torch's of the same name on the samples of torch's optim_db."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db
from torch.testing._internal.common_optimizers import _get_optim_inputs_including_global_cliquey_kwargs as inputs_of

from torchnotes import optim
from torchnotes.testing.layouts import negated_view, transposed

from .case import Case
from .programs import Results, noise
from .samples import FLOATS, OTHER_OPTIONS, Sample

STEPS = 3
SHAPES = ((3, 4), (), (5,), (0, 2))


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

    def made(parameters: Any, **options: Any) -> Any:
        return theirs(parameters, **{name: x for name, x in options.items() if name not in ("fused", "foreach")})

    made.__name__ = theirs.__name__
    return made


def _calls(info: OptimizerInfo) -> Iterator[tuple[Sample, str, Callable]]:
    name = info.optim_cls.__name__
    for dtype in (*FLOATS, torch.complex64):
        for i, given in enumerate(inputs_of("cpu", dtype, info)):
            sample = _sample(f"{name}[{i}] {_short(dtype)}", dtype, given.kwargs)
            yield sample, "steps", steps
            if dtype == torch.float32:
                for program in PROGRAMS:
                    yield sample, program.__name__, program
                for entry in _state_of(info.optim_cls, sample):
                    yield sample, f"without {entry}", partial(resumed_without, entry=entry)
                for other in FLOATS[1:]:
                    yield sample, f"state of {_short(other)}", partial(resumed_with_state_of, dtype=other)
                for change, changed in GRADIENTS.items():
                    yield sample, f"gradients {change}", partial(steps, change=changed)
                for change, changed in PARAMETERS.items():
                    yield _sample(f"{name}[{i}] {_short(dtype)}", dtype, given.kwargs, changed), f"of {change}", steps
    if info.optim_error_inputs_func is not None:
        for i, error in enumerate(info.optim_error_inputs_func("cpu", torch.float32)):
            given = error.optimizer_error_input
            wrong = partial(constructed, params=given.params)
            yield _sample(f"{name} error[{i}]", torch.float32, given.kwargs), "constructed", wrong
    for option in list(inspect.signature(info.optim_cls).parameters)[1:]:
        for other in (*OTHER_OPTIONS, torch.tensor(0.1), torch.tensor([0.1, 0.2]), (0.9, 1.0), (0.5,), ("a", 0.9)):
            kwargs = {option: other}
            yield _sample(f"{name} {option}={other!r:.30}", torch.float32, kwargs), "steps", steps


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sample(name: str, dtype: torch.dtype, kwargs: dict, layout: Callable[[Tensor], Tensor] = torch.clone) -> Sample:
    """A sample whose arguments are the parameters, the gradients of each step and the options."""
    parameters = tuple(layout(noise(torch.empty(shape, dtype=dtype), i + 1)) for i, shape in enumerate(SHAPES))
    gradients = tuple(tuple(noise(x, 10 * step + i) for i, x in enumerate(parameters)) for step in range(STEPS))
    return Sample(name, ((parameters, gradients),), kwargs)


def _made(kind: type, sample: Sample) -> tuple[list[Tensor], Any, tuple]:
    values, gradients = sample.args[0]
    parameters = _parameters(values, sample)
    return parameters, kind(parameters, **sample.kwargs), gradients


def _parameters(values: tuple, sample: Sample) -> list[Tensor]:
    """The parameters of a differentiable step must not be leaves."""
    leaves = [torch.nn.Parameter(x) for x in values]
    return [x.clone() for x in leaves] if sample.kwargs.get("differentiable") else leaves


def _step(optimizer: Any, parameters: list[Tensor], gradients: Any) -> None:
    for x, g in zip(parameters, gradients, strict=True):
        x.grad = g
    optimizer.step()


def _results(optimizer: Any, parameters: list[Tensor]) -> Results:
    reference = getattr(torch.optim, type(optimizer).__name__)([torch.nn.Parameter(torch.zeros(1))])
    groups = [
        {k: g.get(k, "missing") for k in reference.param_groups[0] if k != "params"} for g in optimizer.param_groups
    ]
    state = [dict(sorted(optimizer.state.get(x, {}).items())) for x in parameters]
    return {"parameter": parameters, "state": state, "groups": str(groups), "gradient": [x.grad for x in parameters]}


def steps(kind: type, sample: Sample, change: Callable[[Tensor], Any] = lambda g: g) -> Results:
    parameters, optimizer, gradients = _made(kind, sample)
    for of_step in gradients:
        _step(optimizer, parameters, map(change, of_step))
    return _results(optimizer, parameters)


def constructed(kind: type, sample: Sample, params: Any) -> Results:
    parameters = [torch.nn.Parameter(torch.ones(1))] if params is None else params
    optimizer = kind(parameters, **sample.kwargs)
    optimizer.step()
    return {"groups": len(optimizer.param_groups)}


def with_closure(kind: type, sample: Sample) -> Results:
    parameters, optimizer, _ = _made(kind, sample)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(x.square().sum() for x in parameters)
        loss.backward()
        return loss

    losses = [optimizer.step(closure) for _ in range(STEPS)] if parameters[0].is_leaf else []
    return {**_results(optimizer, parameters), "loss": losses}


def resumed(kind: type, sample: Sample) -> Results:
    return _resumed(kind, sample, kind, kind)


def resumed_from_torch(kind: type, sample: Sample) -> Results:
    return _resumed(kind, sample, getattr(torch.optim, kind.__name__), kind)


def resumed_by_torch(kind: type, sample: Sample) -> Results:
    return _resumed(kind, sample, kind, getattr(torch.optim, kind.__name__))


def resumed_without(kind: type, sample: Sample, entry: str) -> Results:
    theirs = getattr(torch.optim, kind.__name__)

    def changed(saved: dict) -> None:
        for holder in (*saved["param_groups"], *saved["state"].values()):
            holder.pop(entry, None)

    return _resumed(kind, sample, theirs, kind, changed)


def resumed_with_state_of(kind: type, sample: Sample, dtype: torch.dtype) -> Results:
    """Sets the state directly, because load_state_dict casts."""
    parameters, optimizer, gradients = _made(kind, sample)
    _step(optimizer, parameters, gradients[0])
    for state in optimizer.state.values():
        state.update({k: x.to(dtype) for k, x in state.items() if isinstance(x, Tensor) and k != "step"})
    _step(optimizer, parameters, gradients[1])
    return _results(optimizer, parameters)


def _resumed(
    kind: type, sample: Sample, first: type, second: type, change: Callable[[dict], None] = lambda saved: None
) -> Results:
    parameters, optimizer, gradients = _made(first, sample)
    _step(optimizer, parameters, gradients[0])
    saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
    change(saved)
    other = second(parameters, **sample.kwargs)
    other.load_state_dict(saved)
    _step(other, parameters, gradients[1])
    return _results(other, parameters)


def _state_of(kind: type, sample: Sample) -> list[str]:
    parameters, optimizer, gradients = _made(kind, sample.fresh())
    _step(optimizer, parameters, gradients[0])
    return [*optimizer.state[parameters[0]], *(k for k in optimizer.param_groups[0] if k != "params")]


def copied(kind: type, sample: Sample) -> Results:
    parameters, optimizer, gradients = _made(kind, sample)
    _step(optimizer, parameters, gradients[0])
    parameters, optimizer = copy.deepcopy((parameters, optimizer))
    parameters, optimizer = pickle.loads(pickle.dumps((parameters, optimizer)))
    _step(optimizer, parameters, gradients[1])
    return _results(optimizer, parameters)


def of_groups(kind: type, sample: Sample) -> Results:
    values, gradients = sample.args[0]
    parameters = _parameters(values, sample)
    named = {"params": [("a", parameters[0]), ("b", parameters[1])], "lr": 0.5}
    optimizer = kind([named], **sample.kwargs)
    optimizer.add_param_group({"params": [("c", parameters[2]), ("d", parameters[3])], "weight_decay": 0.25})
    for of_step in gradients:
        _step(optimizer, parameters, of_step)
    return {**_results(optimizer, parameters), "names": [g["param_names"] for g in optimizer.param_groups]}


def some_gradients(kind: type, sample: Sample) -> Results:
    parameters, optimizer, gradients = _made(kind, sample)
    _step(optimizer, parameters, (None, *gradients[0][1:]))
    optimizer.zero_grad()
    optimizer.step()
    _step(optimizer, parameters, (*gradients[1][:1], None, None, None))
    optimizer.zero_grad(set_to_none=False)
    return _results(optimizer, parameters)


def with_hooks(kind: type, sample: Sample) -> Results:
    parameters, optimizer, gradients = _made(kind, sample)
    heard: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: heard.append("before"))
    optimizer.register_step_post_hook(lambda *_: heard.append("after"))
    optimizer.register_state_dict_pre_hook(lambda *_: heard.append("saved"))
    _step(optimizer, parameters, gradients[0])
    optimizer.state_dict()
    return {**_results(optimizer, parameters), "heard": heard, "repr": len(repr(optimizer)) > 0}


def scheduled(kind: type, sample: Sample) -> Results:
    parameters, optimizer, gradients = _made(kind, sample)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for of_step in gradients:
        _step(optimizer, parameters, of_step)
        schedule.step()
    return _results(optimizer, parameters)


def scaled(kind: type, sample: Sample) -> Results:
    """Steps as GradScaler does, without and with an infinite gradient."""
    parameters, optimizer, gradients = _made(kind, sample)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step, of_step in enumerate(gradients):
        scaler.scale(torch.zeros((), requires_grad=True))
        for x, g in zip(parameters, of_step, strict=True):
            x.grad = g * 4 if step != 1 else g * math.inf
        scaler.step(optimizer)
        scaler.update()
    return {**_results(optimizer, parameters), "scale": scaler.get_scale()}


def under_inference_mode(kind: type, sample: Sample) -> Results:
    with torch.inference_mode():
        return steps(kind, sample)


PROGRAMS: tuple[Callable, ...] = (
    with_closure,
    resumed,
    resumed_from_torch,
    resumed_by_torch,
    copied,
    of_groups,
    some_gradients,
    with_hooks,
    scheduled,
    scaled,
    under_inference_mode,
)


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
