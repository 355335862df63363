"""A model of torch.nn's modules turned into one of ours, in place, and back."""

import inspect
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Module
from torch.nn.modules.lazy import LazyModuleMixin

from . import nn
from .nn._uses import Uses

_OURS: dict[type[Module], type[Module]] = {
    theirs: ours
    for name, ours in vars(nn).items()
    if isinstance(ours, type) and (theirs := getattr(torch.nn, name, None)) in ours.__mro__
} | {torch.nn.SyncBatchNorm: nn.SyncBatchNorm}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LAYERS = (*_NORMS, nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d, nn.Linear)
_BEFORE_NORMS = (nn.Linear, *(getattr(torch.nn, f"Conv{kind}{n}d") for kind in ("", "Transpose") for n in (1, 2, 3)))
_ACTIVATIONS = {nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
_FOREIGN = "no counterpart here"
_LAZY = "not initialised yet"
_OVERWRITTEN = "what follows may overwrite its result, which ours keeps"
_BEFORE = "_before_conversion"  # of a module that was changed: its class, and those of our options that it had


@dataclass
class Report:
    """What convert did to which modules, by their names in the model."""

    replaced: dict[str, str] = field(default_factory=dict)  # name: class
    fused: dict[str, str] = field(default_factory=dict)  # layer: the activation that it computes now
    inplace: list[str] = field(default_factory=list)  # normalisations that overwrite their input
    kept: dict[str, str] = field(default_factory=dict)  # name: why the module is still torch's
    unfused: dict[str, str] = field(default_factory=dict)  # layer, or what did not trace: why it is not fused

    def __str__(self) -> str:
        lines = [f"replaced: {len(self.replaced)}"]
        lines += [f"    {count} {name}" for name, count in Counter(self.replaced.values()).most_common()]
        lines.append(f"fused: {len(self.fused)}")
        lines += [f"    {layer or '(model)'} with {activation}" for layer, activation in self.fused.items()]
        lines += [f"in place: {', '.join(self.inplace)}"] if self.inplace else []
        for title, reasons in (("kept", self.kept), ("not fused", self.unfused)):
            names = defaultdict(list)
            for name, why in reasons.items():
                names[why].append(name or "(model)")
            lines.append(f"{title}: {len(reasons)}")
            for why, of_it in names.items():
                lines.append(f"    {why} ({len(of_it)}): {', '.join(of_it[:3])}{', ...' if len(of_it) > 3 else ''}")
        return "\n".join(lines)


def convert(model: Module, *, fuse: bool = True, inplace: bool = False) -> Report:
    """Makes the modules of a model ours, in place, where they are exactly of a class of torch.nn that we have.

    Parameters, buffers, hooks, names and the state_dict remain, and so do optimizers made before; `revert` undoes it.
    Dropout draws other numbers than torch's from the same seed.

    fuse     A batch normalisation or Linear computes the ReLU, LeakyReLU, Sigmoid or Tanh that follows it, and that
             becomes an Identity. torch.fx shows where: each of the two is called once, and nobody else takes what is
             between them, in training or in evaluation; a model that does not trace is searched part by part. Whoever
             comes by it in another way than by forward of the modules around it (another method, a part of a
             Sequential, a wrapper put around the Linear later) finds the activation in it already.
    inplace  Batch normalisations write over the result of the convolution or Linear before them where nobody else
             takes that or writes over theirs, and where that saves memory: without an activation or with a LeakyReLU.
             Up to 16 MB it is no faster, and there is no second derivative: hence not by default.
    """
    if not isinstance(model, Module):
        raise TypeError(f"convert takes a torch.nn.Module. Got: {type(model).__name__}")
    report = Report()
    names = {module: name for name, module in model.named_modules()}
    for module, name in names.items():
        why = _why_kept(module)
        if why is None:
            _become(module, _OURS[type(module)])
            report.replaced[name] = type(module).__name__
        elif why and not (why == _FOREIGN and any(module.children())):
            report.kept[name] = f"{type(module).__name__}: {why}"
    uses = Uses(model)
    if fuse:
        _fuse(uses, names, report)
    for module, name in names.items():
        if type(module) is nn.LeakyReLU and name in report.replaced and _errs_on_overwriting(module, uses):
            _restore(module)
            del report.replaced[name]
            report.kept[name] = f"LeakyReLU: {_OVERWRITTEN}"
    if inplace:
        _overwrite_inputs(uses, names, report)
    return report


def revert(model: Module) -> None:
    """Undoes convert, wherever the model has been since: copied, saved and loaded as a whole, trained."""
    if not isinstance(model, Module):
        raise TypeError(f"revert takes a torch.nn.Module. Got: {type(model).__name__}")
    changed = {module: name for name, module in model.named_modules() if _BEFORE in vars(module)}
    for module, name in changed.items():
        if type(module) not in (*_OURS.values(), torch.nn.Identity):
            raise ValueError(f"{name or 'the model'} has become {type(module).__name__} since: undo that first")
    for module in changed:
        _restore(module)


def _why_kept(module: Module) -> str | None:
    """Why a module is not replaced: None if it is, empty for what has nothing to do with us."""
    cls = type(module)
    if cls.__module__.startswith("torchnotes.") or _BEFORE in vars(module):
        return ""
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by torch.jit"
    if cls not in _OURS:
        base = next((base for base in cls.__mro__ if base in _OURS), None)
        if base is None:
            return _FOREIGN
        lazy = isinstance(module, LazyModuleMixin)
        return _LAZY if lazy else f"a subclass of {base.__name__}, which may compute something else"
    if "forward" in vars(module):
        return "has a forward of its own"
    taken = [name for name in _options_of(_OURS[cls]) if name in vars(module)]
    return f"has an attribute {taken[0]!r} already" if taken else None


def _options_of(cls: type[Module]) -> dict[str, Any]:
    """The attributes of our class that torch's has not, by their defaults: its parameters by keyword alone."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "bias"}


def _become(module: Module, cls: type[Module], **options: Any) -> None:
    attributes = vars(module)
    defaults = _options_of(cls)
    attributes.setdefault(_BEFORE, (type(module), {name: attributes[name] for name in defaults if name in attributes}))
    module.__class__ = cls
    attributes.update({name: attributes.get(name, default) for name, default in defaults.items()} | options)


def _restore(module: Module) -> None:
    cls, options = vars(module).pop(_BEFORE)
    for name in _options_of(type(module)):
        vars(module).pop(name, None)
    vars(module).update(options)
    if issubclass(cls, LazyModuleMixin) and not isinstance(module, LazyModuleMixin):  # initialised since
        cls = cls.cls_to_become
    module.__class__ = cls


def _fuse(uses: Uses, names: dict[Module, str], report: Report) -> None:
    of_names = {name: module for module, name in names.items()}
    for name, error in uses.untraced.items():
        kinds = {type(child) for child in of_names[name].children()}
        if not uses.roots or (kinds.intersection(_LAYERS) and kinds.intersection(_ACTIVATIONS)):
            report.unfused[name] = f"does not trace ({error})"
    for layer, activation in uses.pairs(_LAYERS, tuple(_ACTIVATIONS)):
        if layer.activation is not None:
            continue
        why = _LAZY if isinstance(layer, LazyModuleMixin) else uses.why_apart(layer, activation)
        if type(layer) is nn.Linear and _errs_on_overwriting(activation, uses):
            why = _OVERWRITTEN
        if why is not None:
            report.unfused[names[layer]] = why
            continue
        slope = getattr(activation, "negative_slope", 0.01)
        _become(layer, type(layer), activation=_ACTIVATIONS[type(activation)], negative_slope=slope)
        _become(activation, torch.nn.Identity)
        report.fused[names[layer]] = names[activation]


def _errs_on_overwriting(activation: Module, uses: Uses) -> bool:
    """What overwrites the result of a LeakyReLU that is not in place is an error only with ours."""
    is_kept = type(activation) is nn.LeakyReLU and not activation.inplace
    return is_kept and uses.may_be_overwritten(activation, outside=False)


def _overwrite_inputs(uses: Uses, names: dict[Module, str], report: Report) -> None:
    for layer, norm in uses.pairs(_BEFORE_NORMS, _NORMS):
        ends = getattr(layer, "activation", None) is not None
        saves = norm.activation is None or (norm.activation == "leaky_relu" and norm.negative_slope > 0)
        if saves and not ends and not uses.why_apart(layer, norm) and not uses.may_be_overwritten(norm, outside=True):
            _become(norm, type(norm), inplace=True)
            report.inplace.append(names[norm])
