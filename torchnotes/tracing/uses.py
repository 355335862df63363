"""Which modules of a model use the results of which others."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch.fx
from torch.nn import Module

from .steady import Reader, Settings
from .trace import Trace, hooked, is_entered, traced

_SEVERAL = "it or its activation is used in several places, and part of the model does not trace"
OVERWRITTEN = {what: f"later code may overwrite its {what}, which our module saves" for what in ("result", "logits")}


class Place(NamedTuple):
    """The owner of a group of modules that work together."""

    owner: Module  # the module whose forward calls them
    names: list[str]  # their names in the owner
    code: dict[str, Settings]  # modules in it that call others or run code, and the attributes on which that depends


class Uses:
    def __init__(self, model: Module) -> None:
        traces = traced(model)
        self.untraced = traces.failures
        self.roots, self._ran = traces.of_roots, traces.ran
        self._reader = Reader()
        called = [{module for trace in root for module in trace.times} for root in self.roots]
        self._root_of = {module: root for root, modules in zip(self.roots, called, strict=True) for module in modules}
        self._called_in = Counter(module for modules in called for module in modules)
        self._places = Counter(module for _, module in model.named_modules(remove_duplicate=False))

    def pairs(self, first: tuple[type, ...], second: tuple[type, ...]) -> Iterator[tuple[Any, Any]]:
        """Pairs of modules of exactly these classes where the second takes the result of the first."""
        successions = [pair for root in self.roots for trace in root for pair in trace.successions]
        for before, after in dict.fromkeys(successions):
            if type(before) in first and type(after) in second:
                yield before, after

    def why_apart(self, first: Module, second: Module) -> str | None:
        """Why the two cannot be fused: something might see the intermediate result."""
        pair, root = (first, second), self._root_of[first]
        if any(hooked(module) for module in pair):
            return "hooks see the value between it and its activation"
        if any(self._called_in[m] > 1 or max(trace.times[m] for trace in root) > 1 for m in pair):
            return "it or its activation is called more than once"
        if self.untraced and any(self._places[module] > 1 for module in pair):
            return _SEVERAL
        for trace in root:
            if not trace.successions.get(pair, trace.times[first] == trace.times[second] == 0):
                return "its result is also used elsewhere"
        return None

    def result_is_written(self, module: Module) -> bool:
        """Whether the traces show it; without traces, False."""
        return any(trace.may_be_overwritten(node) for trace in self._traces(module) for node in trace.calls(module))

    def input_is_written(self, module: Module) -> bool:
        inputs = [(trace, node.all_input_nodes[0]) for trace in self._traces(module) for node in trace.calls(module)]
        return any(trace.may_be_overwritten(trace.source(node) or node) for trace, node in inputs)

    def place(self, *modules: Module, result_of: Module | None = None, input_of: Module | None = None) -> Place | str:
        """The module that calls all of these, and the readers of a result or an input that nothing overwrites.

        Or the reason why there is none.
        """
        if self.untraced and any(self._places[module] > 1 for module in modules):
            return _SEVERAL
        owners: set[tuple[Module, str]] = set()
        names: set[str] = set()
        for trace in self._traces(modules[0]):
            nodes = [node for module in modules for node in trace.calls(module)]
            unwritten = [] if result_of is None else trace.calls(result_of)
            for node in [] if input_of is None else trace.calls(input_of):
                before = trace.source(node.all_input_nodes[0])
                if before is None:
                    return OVERWRITTEN["logits"]
                unwritten.append(before)
                nodes.append(before)
            for node in unwritten:
                readers = trace.readers(node)
                if readers is None:
                    return OVERWRITTEN["result"]
                nodes += readers
            if nodes:
                owners.add((trace.root, trace.owner(nodes)))
                names.update(str(node.target) for node in nodes)
        if len(owners) != 1:
            return "no module always calls both of them"
        ((root, name),) = owners
        owner, start = root.get_submodule(name), len(name) + 1 if name else 0
        code = self._code(owner)
        return code if isinstance(code, str) else Place(owner, sorted({name[start:] for name in names}), code)

    def _code(self, owner: Module) -> dict[str, Settings] | str:
        settings = self._reader.settings(self._ran.get(owner, ()))
        names = {module: name for name, module in owner.named_modules()}
        if any(isinstance(module, torch.fx.GraphModule) for module in names):
            return "they are called by a torch.fx.GraphModule, whose code may change"
        if isinstance(settings, str):
            return f"{settings}, which calls them, has a branch, a loop or a call that may differ the next time"
        if not settings.keys() <= names.keys():
            return "it is called together with modules outside the model"
        code = [module for module in names if any(module.children()) or is_entered(module)]
        return {names[module]: settings.get(module, ()) for module in code}

    def _traces(self, module: Module) -> Sequence[Trace]:
        return self._root_of.get(module, ())
