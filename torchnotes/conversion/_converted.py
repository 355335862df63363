"""The classes of converted modules, which take shortcuts together in the forward of their owner.

torch.fx shows what the forward of a module, the owner, does with the results of the modules inside it. While that
forward runs, a layer also computes the activation that follows it, which then returns its input unchanged; a batch
normalization overwrites its input; a LeakyReLU saves only its output, and a cross-entropy saves the logits themselves.
When called from elsewhere, each module works on its own and saves what torch's module saves, because its result, or the
logits, may be overwritten.

The reasons are in docs/decisions/convert.md.
"""

import copyreg
import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.compiler import is_compiling
from torch.nn import Module
from torch.nn.modules.module import _has_any_global_hook

from .. import functional as F
from .. import nn
from ..ops.activations import ACTIVATIONS, Activation, ActivationInfo
from ..tracing.steady import Settings, Something


class Shortcut(NamedTuple):
    """What a module does in the forward of its owner. Modules are identified by their names in the owner."""

    module: str
    activation: str | None  # the activation that it also computes
    inplace: bool  # whether it overwrites its input
    holds_with: frozenset[str]  # the modules on which the shortcut depends


class Part(NamedTuple):
    """A module inside an owner, or the owner itself, as it was when the shortcuts were found."""

    name: str  # empty for the owner
    kind: type[Module]
    children: list[str]
    inplace: Any
    runs: bool  # whether it runs code that the shortcuts depend on, or calls modules that do
    reads_training: bool
    settings: Settings

    @classmethod
    def of(cls, owner: Module, name: str, settings: Settings | None) -> "Part":
        module = owner.get_submodule(name)
        kind = kind_of(type(module)) if isinstance(module, Owner) else type(module)
        values = tuple(one for one in settings or () if one[0] != "training")
        runs, reads_training = settings is not None, len(values) < len(settings or ())
        return cls(name, kind, list(module._modules), vars(module).get("inplace"), runs, reads_training, values)


# What a module does in the forward that is running: the activation that it also computes, whether it overwrites its
# input, and whether grad mode was enabled when that forward began.
_Role = tuple[Module | None, bool, bool]


class _Running(threading.local):
    """The state of this thread."""

    roles: dict[Module, _Role] = {}  # noqa: RUF012 # replaced, never modified
    results: dict[Module, Tensor] = {}  # noqa: RUF012 # of layers, keyed by the activations that they have computed


_running = _Running()


class Owner:
    """Mixed into the class of a module whose forward calls modules that take shortcuts in it."""

    _shortcuts: tuple[Shortcut, ...] = ()
    _parts: tuple[Part, ...] = ()
    _distinct: int = 0  # how many distinct modules are children of parts
    __jit_ignored_attributes__ = ("_shortcuts", "_parts", "_distinct")

    def __init_subclass__(cls) -> None:
        """Skips the hook of the base class, which may register its subclasses."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = super().__call__  # type: ignore[misc] # Module's
        if is_compiling() or not self._shortcuts or "forward" in self.__dict__ or _is_intercepted():
            return call(*args, **kwargs)
        running = _running
        roles, results = running.roles, running.results
        if not roles:
            running.results = {}
        running.roles = roles | self._roles() if roles else self._roles()
        try:
            return call(*args, **kwargs)
        finally:
            running.roles, running.results = roles, results

    def _roles(self) -> dict[Module, _Role]:
        attributes = self.__dict__
        inside, training = attributes["_modules"], attributes["training"]
        modules: dict[str, Any] = {}
        distinct: set[Any] = set()
        for name, kind, names, inplace, runs, reads_training, values in self._parts:
            module = self.part(name) if "." in name else inside.get(name) if name else self
            if module is not None:
                of_module = module.__dict__
                children = of_module["_modules"]
                if (
                    (type(module) is kind or kind_of(type(module)) is kind_of(kind))
                    and (list(children) == names if children else not names)
                    and of_module.get("inplace") == inplace
                    and (not name or _is_alone(of_module))
                    and not (reads_training and of_module["training"] != training)
                    and not (values and _differ(module, values))
                ):
                    modules[name] = module
                    if children:
                        distinct.update(children.values())
                    continue
            if runs:
                return {}
        if len(distinct) != self._distinct:
            return {}
        graph = torch.is_grad_enabled()
        return {
            modules[name]: (modules[activation] if activation else None, inplace, graph)
            for name, activation, inplace, holds_with in self._shortcuts
            if modules.keys() >= holds_with
        }

    def forget_changed(self) -> None:
        """Drops the shortcuts that no longer hold."""
        there = self._roles()
        self._shortcuts = tuple(one for one in self._shortcuts if self.part(one.module) in there)
        names = {name for one in self._shortcuts for name in one.holds_with}
        self._parts = tuple(part for part in self._parts if part.name in names or (names and part.runs))

    def part(self, name: str) -> Any:
        """The module of this name, or None if it is gone."""
        module: Any = self
        for child in name.split(".") if name else ():
            module = None if module is None else module._modules.get(child)
        return module

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        function, arguments, *rest = reduced
        if function is copyreg.__newobj__ and type(self).__bases__[0] is Owner:  # type: ignore[attr-defined] # no stub
            return _new, (kind_of(type(self)), *arguments[1:]), *rest
        return reduced


def _is_intercepted() -> bool:
    """Whether global hooks, or the compiler, may handle some of the calls."""
    return _has_any_global_hook() or get_eval_frame_callback() is not None


@functools.cache
def owning(cls: Any) -> Any:
    """The class of an owner, which keeps the name of its base class."""
    members = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    members["__jit_ignored_attributes__"] = (
        *getattr(cls, "__jit_ignored_attributes__", ()),
        *Owner.__jit_ignored_attributes__,
    )
    return type(cls)(cls.__name__, (Owner, cls), members)


def _new(cls: Any, *arguments: Any) -> Any:
    owner = owning(cls)
    return owner.__new__(owner, *arguments)


def kind_of(cls: Any) -> Any:
    """The original class: modules that became owners or take shortcuts count as unchanged."""
    return cls.__bases__[1] if cls.__bases__[0] is Owner else CLASSES.get(cls, cls)


def _is_alone(attributes: dict[str, Any]) -> bool:
    """Whether calling a module only runs its class's forward, with nothing that depends on what it computes."""
    return (
        "forward" not in attributes
        and attributes.get("_compiled_call_impl") is None
        and all(getattr(hook, "knows_shortcuts", False) for hook in attributes["_forward_hooks"].values())
        and not attributes["_forward_pre_hooks"]
        and not attributes["_backward_hooks"]
        and not attributes["_backward_pre_hooks"]
    )


def _differ(module: Any, settings: Settings) -> bool:
    return any(
        getattr(module, name, None) is None if value is Something else getattr(module, name, ...) != value
        for name, value in settings
    )


def _role(module: Module) -> _Role | None:
    if is_compiling():
        return None
    role = _running.roles.pop(module, None)  # a second call is not the one that was traced
    # A checkpoint recomputes it when the owner does not run.
    if role is None or torch.is_grad_enabled() != role[2] or _top_saved_tensors_default_hooks(True):
        return None
    return role


def _activation(forward: Callable[..., Tensor], info: ActivationInfo) -> Callable[..., Tensor]:
    def converted(self: Any, input: Tensor) -> Tensor:
        if not is_compiling() and self in _running.results and _running.results.pop(self) is input:
            return input
        if info.of_saved_input is None or getattr(self, "inplace", False) or _role(self) is not None:
            return forward(self, input)
        return info.of_saved_input(input, *([self.negative_slope] if info.takes_slope else []))

    return converted


def _linear(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def converted(self: Any, input: Tensor) -> Tensor:
        role = _role(self)
        if role is None or role[0] is None or self.activation is not None or not is_fusible(role[0]):
            return forward(self, input)
        after = role[0]
        y = F.linear(input, self.weight, self.bias, activation=NAMES[type(after)], negative_slope=_slope(after))
        _running.results[after] = y
        return y

    return converted


def _normalization(normalize: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def converted(self: Any, *args: Any) -> Tensor:
        *of_batch, activation, slope, inplace = args
        role = _role(self)
        if role is None or (role[0] is not None and (activation is not None or not is_fusible(role[0]))):
            return normalize(self, *args)
        after = role[0]
        if after is not None:
            activation, slope = NAMES[type(after)], _slope(after)
        y = normalize(self, *of_batch, activation, slope, inplace or role[1])
        if after is not None:
            _running.results[after] = y
        return y

    return converted


def _cross_entropy(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def converted(self: Any, input: Tensor, target: Tensor) -> Tensor:
        if isinstance(input, Tensor) and input.requires_grad and torch.is_grad_enabled() and _role(self) is None:
            input = input.clone()
        return forward(self, input, target)

    return converted


def already_in(result: Tensor) -> Module | None:
    """The activation that the layer which has just returned this result also computed."""
    return next((after for after, y in _running.results.items() if y is result), None)


def is_fusible(activation: Module) -> bool:
    """Whether layers can end with this activation: some of its options are fixed."""
    fixed = ACTIVATIONS[NAMES[CLASSES.get(type(activation), type(activation))]].fixed
    return all(getattr(activation, name) == value for name, value in fixed.items())


def _slope(activation: Module) -> float:
    return activation.__dict__.get("negative_slope", 0.01)


CLASSES: dict[type[Module], type[Module]] = {}  # the classes of converted modules that take shortcuts, by ours
NAMES: dict[type[Module], Activation] = {}  # of activations


def _derive(cls: Any, method: str, convert: Callable[..., Any], *args: Any) -> type[Module]:
    """Makes a class of the same name. Owners do not run in scripted code, so torch.jit reads the original method."""
    original = getattr(cls, method)
    converted = functools.wraps(original)(convert(original, *args))
    CLASSES[cls] = globals()[cls.__name__] = type(cls)(
        cls.__name__, (cls,), {"__module__": __name__, method: converted}
    )
    return CLASSES[cls]


for _name, _info in ACTIVATIONS.items():
    NAMES[_derive(getattr(nn, _info.module), "forward", _activation, _info)] = _name
for _cls in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
    _derive(_cls, "_normalize", _normalization)
_derive(nn.Linear, "forward", _linear)
_derive(nn.CrossEntropyLoss, "forward", _cross_entropy)
