"""Converts models of torch.nn's modules to ours in place, and back."""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Module
from torch.nn.modules.lazy import LazyModuleMixin

from .. import _html, nn
from ..ops.activations import ACTIVATIONS
from ..tracing.trace import hooked
from ..tracing.uses import OVERWRITTEN, Place, Uses
from ..tracing.writes import writes_in_place
from ._converted import CLASSES, NAMES, Owner, Part, Shortcut, is_fusible, kind_of, owning

_OURS: dict[type[Module], type[Module]] = {
    theirs: ours
    for name, ours in vars(nn).items()
    if isinstance(ours, type) and (theirs := getattr(torch.nn, name, None)) in ours.__mro__
} | {torch.nn.SyncBatchNorm: nn.SyncBatchNorm}


def _and_changed(*classes: type[Module]) -> tuple[type[Module], ...]:
    return (*classes, *(CLASSES[cls] for cls in classes if cls in CLASSES))


_NORMS = _and_changed(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LINEAR = _and_changed(nn.Linear)
_LAYERS = (*_NORMS, nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d, *_LINEAR)
_BEFORE_NORMS = (*_LINEAR, *(getattr(torch.nn, f"Conv{kind}{n}d") for kind in ("", "Transpose") for n in (1, 2, 3)))
_ACTIVATIONS = _and_changed(*(getattr(nn, info.module) for info in ACTIVATIONS.values() if info.of_output))
_FOREIGN = "torchnotes has no counterpart"
_LAZY = "not initialized yet"
_OVERWRITABLE = tuple(getattr(nn, info.module) for info in ACTIVATIONS.values() if info.overwritable)
_SAVES_OUTPUT = tuple(getattr(nn, info.module) for info in ACTIVATIONS.values() if info.of_saved_input)
_SAVES_MORE = (*_SAVES_OUTPUT, nn.CrossEntropyLoss)  # than torch's modules: the result, the logits
_BEFORE = (
    "_before_conversion"  # attribute of changed modules: the original class, and options of ours that existed before
)


@dataclass
class Report:
    """What :func:`~torchnotes.convert` did, by the names of modules in the model. ``str()`` formats it.

    Attributes:
        replaced: The new class of each module that was replaced.
        fused: For each layer, the activation that it also computes.
        inplace: The normalizations that overwrite their input.
        kept: Why a module is still torch's.
        unfused: Why a layer is not fused, or a module does not trace.
    """

    replaced: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)
    inplace: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    unfused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"replaced: {len(self.replaced)}"]
        lines += [f"    {len(names)} {cls}" for cls, names in _by_value(self.replaced)]
        lines.append(f"fused: {len(self.fused)}")
        lines += [f"    {layer or '(model)'} with {activation}" for layer, activation in self.fused.items()]
        lines += [f"in place: {', '.join(self.inplace)}"] if self.inplace else []
        for title, reasons in (("kept", self.kept), ("not fused", self.unfused)):
            lines.append(f"{title}: {len(reasons)}")
            lines += [f"    {why} ({len(names)}): {_some(names)}" for why, names in _by_value(reasons)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        of_classes = [(f"replaced by {cls}", names) for cls, names in _by_value(self.replaced)]
        pairs = [f"{layer or '(model)'} with {activation}" for layer, activation in self.fused.items()]
        kept, unfused = (_by_value(reasons) for reasons in (self.kept, self.unfused))
        lists = [
            *of_classes,
            ("fused", pairs),
            ("in place", self.inplace),
            *((f"kept: {why}", names) for why, names in kept),
            *((f"not fused: {why}", names) for why, names in unfused),
        ]
        rows = [(what, str(len(names)), _some(names)) for what, names in lists if names]
        return _html.snippet((_html.table(("conversion", "modules", "names"), rows),))


def _by_value(of_names: dict[str, str]) -> list[tuple[str, list[str]]]:
    """The values, the most frequent first, and the names of the modules that have each."""
    names = defaultdict(list)
    for name, value in of_names.items():
        names[value].append(name or "(model)")
    return sorted(names.items(), key=lambda item: -len(item[1]))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def convert(model: Module, *, fuse: bool = True, inplace: bool = False) -> Report:
    """Replaces the modules of a model by those of torchnotes, in place.

    Parameters, buffers, hooks, names, the state_dict and existing optimizers are preserved, and
    :func:`~torchnotes.revert` undoes the conversion. Subclasses of torch.nn's classes are not converted. Dropout
    generates other numbers than torch's from the same seed. In-place operations keep working: a LeakyReLU whose result
    may be overwritten, and a CrossEntropyLoss whose logits may be, save what torch's save, or stay torch's.
    ``torch.jit``, ``torch.export``, pickle and deepcopy treat a converted model like any other. Tools that look for
    classes of torch.nn do not recognize those of torchnotes: ``torch.ao.quantization`` raises an error, so revert
    first.

    To find what it can fuse, it traces a copy of the model with torch.fx; a model that does not trace is searched
    module by module. A layer and an activation are fused if each is called once and nothing else uses the tensor
    between them, in training and in evaluation, and only while the module that calls both is running, without hooks on
    them. When called from elsewhere, such as another method, each works on its own. They are not fused if the code that
    calls them may behave differently the next time: its branches, loops and calls may depend only on constants and on
    the module's children and plain attributes, which are compared in each call.

    Args:
        model: The model.
        fuse: Lets batch normalizations and Linear layers compute the elementwise activation that follows them.
        inplace: Lets batch normalizations overwrite the result of the convolution or Linear before them, if nothing
            else uses it or overwrites theirs, and if that saves memory: without an activation or with a LeakyReLU. It
            is no faster up to 16 MB, and second derivatives raise an error.

    Returns:
        What was converted and fused, and what was not and why.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> print(torchnotes.convert(model))
        replaced: 3
            2 Linear
            1 ReLU
        fused: 1
            0 with 1
        kept: 0
        not fused: 0
    """
    if not isinstance(model, Module):
        raise TypeError(f"convert takes a torch.nn.Module. Got: {type(model).__name__}")
    report = Report()
    names = {module: name for name, module in model.named_modules()}
    for module in names:
        if isinstance(module, Owner):
            module.forget_changed()
    for module, name in names.items():
        why = _why_kept(module)
        if why is None:
            ours = _OURS[type(module)]
            _become(module, CLASSES[ours] if ours in _SAVES_MORE else ours)
            report.replaced[name] = ours.__name__
        elif why and not (why == _FOREIGN and any(module.children())):
            report.kept[name] = f"{type(module).__name__}: {why}"
    uses = Uses(model)
    if fuse:
        _fuse(uses, names, report)
    for module, name in names.items():
        if isinstance(module, _SAVES_MORE) and name in report.replaced:
            _save_less(module, model, uses, names, report)
    if inplace:
        _overwrite_inputs(uses, names, report)
    return report


def revert(model: Module) -> None:
    """Undoes convert, even if the model has been trained, copied, or saved and loaded as a whole since.

    Args:
        model: The model, which is changed in place.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> report = torchnotes.convert(model)
        >>> torchnotes.revert(model)
        >>> type(model[0])
        <class 'torch.nn.modules.linear.Linear'>
    """
    if not isinstance(model, Module):
        raise TypeError(f"revert takes a torch.nn.Module. Got: {type(model).__name__}")
    changed = {module: name for name, module in model.named_modules() if _BEFORE in vars(module)}
    for module, name in changed.items():
        before: Any = vars(module)[_BEFORE][0]
        if type(module) not in (*_OURS.values(), *CLASSES.values(), owning(before)):
            raise ValueError(f"{name or 'the model'} has since become {type(module).__name__}: undo that first")
    for module in changed:
        _restore(module)


def _why_kept(module: Module) -> str | None:
    """Why a module is not replaced. None if it is, empty if the report need not mention it."""
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
        return "has its own forward"
    if "qconfig" in vars(module):
        return "prepared for quantization"
    taken = [name for name in _options_of(_OURS[cls]) if name in vars(module)]
    return f"already has an attribute {taken[0]!r}" if taken else None


def _options_of(cls: type[Module]) -> dict[str, Any]:
    """The defaults of attributes that only our class has, which are its keyword-only parameters."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "bias"}


def _become(module: Module, cls: type[Module]) -> None:
    attributes = vars(module)
    defaults = _options_of(cls)
    attributes.setdefault(_BEFORE, (type(module), {name: attributes[name] for name in defaults if name in attributes}))
    module.__class__ = cls
    attributes.update({name: attributes.get(name, default) for name, default in defaults.items()})


def _restore(module: Module) -> None:
    cls, options = vars(module).pop(_BEFORE)
    for name in Owner.__jit_ignored_attributes__ if isinstance(module, Owner) else _options_of(type(module)):
        vars(module).pop(name, None)
    vars(module).update(options)
    if issubclass(cls, LazyModuleMixin) and not isinstance(module, LazyModuleMixin):  # initialized since
        cls = cls.cls_to_become
    module.__class__ = cls


def _place(uses: Uses, *modules: Module, **of: Module | None) -> Place | str:
    """The place where these modules take a shortcut, whose module becomes an owner, or why there is none."""
    place = uses.place(*modules, **of)
    if isinstance(place, str):
        return place
    owner: Any = place.owner
    if not isinstance(owner, Owner) or not owner._shortcuts:
        cls = kind_of(type(owner))
        try:
            owner.__class__ = owning(cls)
        except Exception as error:  # a metaclass or slots may forbid it
            return f"no class can be derived from that of the module that calls them ({error})"
        vars(owner)[_BEFORE] = cls, {}
        owner._shortcuts, owner._parts = (), ()
    return place


def _take_shortcut(place: Place, module: Any, activation: Module | None = None, inplace: bool = False) -> None:
    owner: Any = place.owner
    for one in (module,) if activation is None else (module, activation):
        if type(one) in CLASSES:
            _become(one, CLASSES[type(one)])
    names: dict[Any, str] = {owner.get_submodule(name): name for name in place.names}
    paths = {".".join(name.split(".")[:i]) for name in place.names for i in range(1, name.count(".") + 2)}
    shortcut = Shortcut(names[module], names.get(activation), inplace, frozenset(paths))
    owner._shortcuts = *owner._shortcuts, shortcut
    new = paths.union(place.code) - {part.name for part in owner._parts}
    owner._parts = *owner._parts, *(Part.of(owner, path, place.code.get(path)) for path in sorted(new))
    owner._distinct = len({child for part in owner._parts for child in owner.part(part.name)._modules.values()})


def _fuse(uses: Uses, names: dict[Module, str], report: Report) -> None:
    of_names = {name: module for module, name in names.items()}
    for name, error in uses.untraced.items():
        kinds = {type(child) for child in of_names[name].children()}
        if not uses.roots or all(map(kinds.intersection, (_LAYERS, _ACTIVATIONS))):
            report.unfused[name] = f"does not trace ({error})"
    for layer, activation in uses.pairs(_LAYERS, _ACTIVATIONS):
        fused = any(shortcut.activation for owner in names for shortcut in _shortcuts_of(layer, owner))
        if layer.activation is not None or fused or not is_fusible(activation):
            continue
        why = _LAZY if isinstance(layer, LazyModuleMixin) else uses.why_apart(layer, activation)
        if why is None:
            saves_output = isinstance(layer, nn.Linear) and _saves_output(activation, _OVERWRITABLE)
            place = _place(uses, layer, activation, result_of=activation if saves_output else None)
            if isinstance(place, str):
                why = place
            else:
                _take_shortcut(place, layer, activation)
                report.fused[names[layer]] = names[activation]
        if why is not None:
            report.unfused[names[layer]] = why


def _saves_output(module: Module, classes: tuple[type[Module], ...] = _SAVES_OUTPUT) -> bool:
    """Whether our module, or a layer that ends with it (`_OVERWRITABLE`), saves its output, unlike torch's."""
    return isinstance(module, classes) and not getattr(module, "inplace", False)


def _save_less(module: Module, model: Module, uses: Uses, names: dict[Module, str], report: Report) -> None:
    """Makes an activation save only its output, and a loss the logits themselves, if nothing overwrites them.

    If something does, the module is restored. If that is unknown, the module saves what torch's saves.
    """
    name = names[module]
    if isinstance(module, _SAVES_OUTPUT):
        if not _saves_output(module) or name in report.fused.values():
            return
        what, written, place = "result", uses.result_is_written(module), _place(uses, module, result_of=module)
    else:
        what, written, place = "logits", uses.input_is_written(module), _place(uses, module, input_of=module)
    if isinstance(place, Place):
        _take_shortcut(place, module)
    elif written or any(map(writes_in_place, _around(name, model))):
        _restore(module)
        report.kept[name] = f"{report.replaced.pop(name)}: {OVERWRITTEN[what]}"


def _around(name: str, model: Module) -> Iterator[Module]:
    """The modules that contain the module of this name, and its siblings that have hooks."""
    parts = name.split(".")
    containing = [model.get_submodule(".".join(parts[:i])) for i in range(len(parts))]
    yield from containing
    yield from filter(hooked, containing[-1].modules())


def _overwrite_inputs(uses: Uses, names: dict[Module, str], report: Report) -> None:
    for layer, norm in uses.pairs(_BEFORE_NORMS, _NORMS):
        taken: list[tuple[Any, Shortcut]] = [
            (owner, shortcut) for owner in names for shortcut in _shortcuts_of(norm, owner)
        ]
        after = next((owner.part(shortcut.activation) for owner, shortcut in taken if shortcut.activation), None)
        last, activation = (norm, norm.activation) if after is None else (after, NAMES[type(after)])
        saves = activation is None or (activation == "leaky_relu" and last.negative_slope > 0)
        if not saves or getattr(layer, "activation", None) is not None or uses.why_apart(layer, norm):
            continue
        place = _place(uses, *dict.fromkeys((layer, norm, last)), result_of=last)
        if isinstance(place, Place):
            for owner, shortcut in taken:
                owner._shortcuts = tuple(other for other in owner._shortcuts if other is not shortcut)
            _take_shortcut(place, norm, after, inplace=True)
            report.inplace.append(names[norm])


def _shortcuts_of(module: Module, owner: Any) -> list[Shortcut]:
    shortcuts = owner._shortcuts if isinstance(owner, Owner) else ()
    return [shortcut for shortcut in shortcuts if owner.part(shortcut.module) is module]
