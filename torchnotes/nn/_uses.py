"""Which modules of a model take the results of which others."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch.nn import Module

from ._tracing import hooked, traced


class Uses:
    def __init__(self, model: Module) -> None:
        traces = traced(model)
        self.untraced = traces.failures
        self.roots = traces.of_roots
        called = [{module for trace in root for module in trace.times} for root in self.roots]
        self._root_of = {module: root for root, modules in zip(self.roots, called, strict=True) for module in modules}
        self._called_in = Counter(module for modules in called for module in modules)
        self._places = Counter(module for _, module in model.named_modules(remove_duplicate=False))

    def pairs(self, first: tuple[type, ...], second: tuple[type, ...]) -> Iterator[tuple[Any, Any]]:
        """Modules of exactly these classes of which one takes the result of the other."""
        successions = [pair for root in self.roots for trace in root for pair in trace.successions]
        for before, after in dict.fromkeys(successions):
            if type(before) in first and type(after) in second:
                yield before, after

    def why_apart(self, first: Module, second: Module) -> str | None:
        """Why the two cannot be one: somebody might see what is between them."""
        pair, root = (first, second), self._root_of[first]
        if any(hooked(module) for module in pair):
            return "hooks see what is between it and its activation"
        if any(self._called_in[m] > 1 or max(trace.times[m] for trace in root) > 1 for m in pair):
            return "it or its activation is called more than once"
        if self.untraced and any(self._places[module] > 1 for module in pair):
            return "it or its activation stands in several places, and not all of the model traces"
        for trace in root:
            if not trace.successions.get(pair, trace.times[first] == trace.times[second] == 0):
                return "something else takes its result, too"
        return None

    def may_be_overwritten(self, module: Module, outside: bool) -> bool:
        """As the traces show; not known to be so without."""
        return any(trace.may_be_overwritten(module, outside) for trace in self._root_of.get(module, ()))
