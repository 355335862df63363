"""What torch.fx shows of a model: which modules it calls, and who takes their results."""

import copy
import inspect
import warnings
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field

import torch
from torch.fx import Graph, Node
from torch.nn import Module, UninitializedBuffer

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_LISTS = (torch.nn.ModuleList, torch.nn.ModuleDict)  # nobody calls these
# What returns its first argument, or a view of it.
_PASS_ON = (torch.nn.Identity, torch.nn.modules.dropout._DropoutNd, torch.nn.Flatten, torch.nn.Unflatten)
_VIEWS = {"view", "reshape", "flatten", "unflatten", "transpose", "permute", "squeeze", "unsqueeze", "t", "getitem"}
_VIEWS |= {"contiguous", "dropout", "detach", "chunk", "split", "expand", "narrow", "select", "unbind", "movedim"}


class Tracer(torch.fx.Tracer):
    """torch.fx's, to which our modules, and those in `closed`, are single steps."""

    def __init__(self, closed: Set[Module] = frozenset()) -> None:
        super().__init__()
        self.closed = closed

    def is_leaf_module(self, m: Module, module_qualified_name: str = "") -> bool:
        ours = m.__module__.startswith("torchnotes.") and not isinstance(m, torch.nn.Sequential)
        return ours or m in self.closed or super().is_leaf_module(m, module_qualified_name)


class Trace:
    """The steps of a graph that are modules of the root."""

    def __init__(self, graph: Graph, root: Module) -> None:
        calls = [node for node in graph.nodes if node.op == "call_module"]
        self.modules = {node: root.get_submodule(str(node.target)) for node in calls}
        self.times = Counter(self.modules.values())
        self.successions = dict(self._successions())

    def _successions(self) -> Iterator[tuple[tuple[Module, Module], bool]]:
        """Pairs of which the second takes but the first's result; whether it alone does so, each being called once."""
        for node, second in self.modules.items():
            if len(node.all_input_nodes) == 1 and (before := node.all_input_nodes[0]) in self.modules:
                pair = self.modules[before], second
                yield pair, len(before.users) == 1 and all(self.times[module] == 1 for module in pair)

    def may_be_overwritten(self, module: Module, outside: bool) -> bool:
        """Whether a step may write over a result of a module; or someone `outside`, if that counts."""
        return any(self._written(node, outside) for node, called in self.modules.items() if called is module)

    def _written(self, node: Node, outside: bool) -> bool:
        return any(
            self._overwrites(user, node)
            or (outside and user.op == "output")
            or (self._passes_on(user) and self._written(user, outside))
            for user in node.users
        )

    def _overwrites(self, user: Node, node: Node) -> bool:
        if user in self.modules:
            module = self.modules[user]
            return not isinstance(module, torch.nn.Identity) and bool(getattr(module, "inplace", False))
        if user.op == "call_function" and getattr(user.target, "__module__", "") == "_operator":
            return user.args[0] is node and user.target.__name__ != "getitem"  # type: ignore[union-attr] # fx sees += as +
        return _name(user).endswith("_") or bool(user.kwargs.get("inplace"))

    def _passes_on(self, user: Node) -> bool:
        return isinstance(self.modules[user], _PASS_ON) if user in self.modules else _name(user) in _VIEWS


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


@dataclass
class Traces:
    """Of each of the largest modules that trace: in training and in evaluation, with default arguments and without."""

    of_roots: list[list[Trace]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # by the names of modules, what went wrong


def traced(model: Module) -> Traces:
    """Traces of the model or, where that is not possible, of its parts. The model is not touched by it.

    What does not trace is one step of what contains it; so is a module with hooks, which may look at its result.
    """
    traces = Traces()
    try:
        copied = _copy(model)
    except Exception as error:  # whatever the model's own code may raise; the same holds below
        traces.failures[""] = f"it cannot be copied: {_first_line(error)}"
        return traces
    names = {module: name for name, module in copied.named_modules()}
    graphs: dict[Module, list[Graph]] = {}
    closed: set[Module] = {module for module in names if hooked(module)}
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in reversed(names):  # what is inside comes first
            if any(module.children()) and not isinstance(module, _LISTS) and not Tracer().is_leaf_module(module):
                try:
                    graphs[module] = list(_graphs(module, copied, closed))
                except Exception as error:
                    closed.add(module)
                    traces.failures[names[module]] = _first_line(error)
    for root in _roots(copied, graphs, closed):
        original = model.get_submodule(names[root])
        traces.of_roots.append([Trace(graph, original) for graph in graphs[root]])
    return traces


def hooked(module: Module) -> bool:
    return any(getattr(module, hooks) for hooks in HOOKS)


def _copy(model: Module) -> Module:
    """Of everything but parameters and hooks: tracing runs the model's own code, which may change what it likes."""
    shared: list = [*model.parameters(), *(x for x in model.buffers() if isinstance(x, UninitializedBuffer))]
    for module in model.modules():
        shared += [hook for hooks in HOOKS for hook in getattr(module, hooks).values()]
        shared += [x for x in vars(module).values() if isinstance(x, torch.Tensor) and not x.is_leaf]  # weight_norm's
    return copy.deepcopy(model, {id(one): one for one in shared})


def _graphs(root: Module, model: Module, closed: Set[Module]) -> Iterator[Graph]:
    parameters = inspect.signature(root.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    for training in (True, False):
        for module in model.modules():
            module.training = training
        for arguments in (None, defaults) if defaults else (None,):
            yield Tracer(closed - {root}).trace(root, arguments)


def _roots(module: Module, graphs: dict[Module, list[Graph]], closed: Set[Module], inside: bool = False) -> Iterator:
    """The largest that trace: inside of them only what is closed is looked into."""
    if not isinstance(module, _LISTS):
        if module in graphs and (not inside or module in closed):
            yield module
        if Tracer().is_leaf_module(module):
            return
        inside = module in graphs
    for child in module.children():
        yield from _roots(child, graphs, closed, inside)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or '-'}".splitlines()[0]
