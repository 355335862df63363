"""What torch.fx shows of a model: which modules it calls, and which modules use their results."""

import contextlib
import copy
import dataclasses
import gc
import inspect
import itertools
import operator
import random
import sys
import warnings
import weakref
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence, Set
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch._guards import detect_fake_mode
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Graph, Node
from torch.nn import Module, UninitializedBuffer

from .steady import Run

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_LISTS = (torch.nn.ModuleList, torch.nn.ModuleDict)  # never called
# The source files of modules whose results are new, and the names of such functions.
_NEW = {"activation", "batchnorm", "conv", "instancenorm", "linear", "loss", "normalization", "pooling", "_converted"}
_NEW_RESULTS = {"add", "sub", "mul", "truediv", "matmul", "neg", "pow", "abs", "exp", "square", "sum", "mean", "cat"}
_NEW_RESULTS |= {"stack", "size", "dim", "linear", "conv1d", "conv2d", "conv3d", "max_pool2d", "adaptive_avg_pool2d"}
_NEW_RESULTS |= {"relu", "gelu", "silu", "sigmoid", "tanh", "softmax", "log_softmax", "cross_entropy"}
_NUMBERS = {"shape", "dtype", "device", "ndim"}
_LIBRARIES = {"torch", "_operator", "math", "builtins"}


class _Proxy(torch.fx.Proxy):
    """A proxy that records in-place writes; torch.fx's turns `y += x` into `y = y + x` and rejects `y[i] = x`."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


_AUGMENTED: set[Any] = {operator.setitem}
for _sign in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"):
    _function = getattr(operator, f"i{_sign}")
    _AUGMENTED.add(_function)

    def _augment(self: _Proxy, other: Any, _function: Any = _function) -> Any:
        return self.tracer.create_proxy("call_function", _function, (self, other), {})

    setattr(_Proxy, f"__i{_sign}__", _augment)


_is_leaf_module = torch.fx.Tracer.is_leaf_module


def is_leaf_module(self: torch.fx.Tracer, m: Module, module_qualified_name: str) -> bool:
    """Makes torch.fx treat our modules as leaves, like torch's, so that it traces neither their branches nor state."""
    ours = m.__module__.startswith("torchnotes.") and not isinstance(m, torch.nn.Sequential)
    return ours or _is_leaf_module(self, m, module_qualified_name)


torch.fx.Tracer.is_leaf_module = is_leaf_module  # type: ignore[method-assign] # it knows torch's by name only


class Tracer(torch.fx.Tracer):
    """A torch.fx tracer that also treats the modules in `closed` as leaves."""

    def __init__(self, closed: Set[Module] = frozenset()) -> None:
        super().__init__()
        self.closed = closed
        self._proxies: list[tuple[Node, weakref.ref[_Proxy]]] = []
        self._running: list[Module] = []
        self._importing: FrameType | None = None  # the frame that is importing a module for the first time
        self.ran: dict[Module, dict[Run, None]] = defaultdict(dict)  # the code that ran while a module was running

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> Graph:
        self._running, before, collects = [root], sys.getprofile(), gc.isenabled()
        gc.disable()  # callbacks of the garbage collector are not part of the model
        sys.setprofile(self._see)
        try:
            return super().trace(root, concrete_args)
        finally:
            sys.setprofile(before)
            if collects:
                gc.enable()

    def call_module(self, m: Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self._running.append(m)
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._running.pop()

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        if self._importing is None and frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            self._importing = frame
        if self._importing is not None:
            self._importing = None if event == "return" and frame is self._importing else self._importing
        elif event == "call" and (run := Run.of(frame, self._running[-1])):
            for module in self._running:
                self.ran[module][run] = None

    def proxy(self, node: Node) -> torch.fx.Proxy:
        proxy = _Proxy(node, self)
        self._proxies.append((node, weakref.ref(proxy)))
        return proxy

    def held(self) -> set[Node]:
        """The steps whose results are still referenced after the trace, by an attribute, a list or a closure."""
        return {node for node, proxy in self._proxies if proxy() is not None}

    def is_leaf_module(self, m: Module, module_qualified_name: str = "") -> bool:
        return m in self.closed or super().is_leaf_module(m, module_qualified_name)


class Trace:
    """The steps of a graph that call modules of the root."""

    def __init__(self, graph: Graph, root: Module, held: Set[Node] = frozenset()) -> None:
        self.root, self.held = root, held
        calls = [node for node in graph.nodes if node.op == "call_module"]
        self.modules = {node: root.get_submodule(str(node.target)) for node in calls}
        self.times = Counter(self.modules.values())
        self.successions = dict(self._successions())

    def _successions(self) -> Iterator[tuple[tuple[Module, Module], bool]]:
        """Pairs of modules where the second takes only the first's result, and whether nothing else does.

        That requires that each is called only once.
        """
        for node, second in self.modules.items():
            if len(node.all_input_nodes) == 1 and (before := node.all_input_nodes[0]) in self.modules:
                pair = self.modules[before], second
                yield pair, self._is_between(before) and all(self.times[module] == 1 for module in pair)

    def _is_between(self, node: Node) -> bool:
        return len(node.users) == 1 and node not in self.held

    def calls(self, module: Module) -> list[Node]:
        return [node for node, called in self.modules.items() if called is module]

    def may_be_overwritten(self, node: Node) -> bool:
        """Whether any step may overwrite the result of this one."""
        return any(self._overwrites(user, same) for same in self._same(node) for user in same.users)

    def readers(self, node: Node) -> list[Node] | None:
        """The modules that use the result of a step, or None if anything may overwrite it."""
        found = []
        for same in self._same(node):
            if same in self.held:
                return None
            for user in same.users:
                if (
                    user.op == "output"
                    or self._overwrites(user, same)
                    or not self._is_torchs(user)
                    or self._may_keep(user, same)
                ):
                    return None
                found += [user] if user in self.modules else []
        return found

    def _same(self, node: Node) -> list[Node]:
        """The steps whose results may be views of this one's."""
        found = [node]
        for same in found:
            found += [user for user in same.users if user not in found and self._may_pass_on(user)]
        return found

    def owner(self, nodes: Sequence[Node]) -> str:
        """The innermost module that contains these steps' modules and calls all of them in a single call."""
        stacks = [list(node.meta["nn_module_stack"].items())[:-1] for node in nodes]
        owner = ""
        for callers in zip(*stacks, strict=False):
            (_, (name, _)), *others = callers
            if any(other != callers[0] for other in others):
                break
            if all(str(node.target).startswith(name + ".") for node in nodes):
                owner = name
        return owner

    def source(self, node: Node) -> Node | None:
        """The module step whose new result, or a view of it, this step returns, or None if that is unknown."""
        while node not in self.modules and self._may_pass_on(node) and len(node.all_input_nodes) == 1:
            node = node.all_input_nodes[0]
        is_new = node in self.modules and self._is_torchs(node) and not self._may_pass_on(node)
        return node if is_new else None

    def _is_torchs(self, user: Node) -> bool:
        """Whether a step runs only library code."""
        if user in self.modules:
            module = self.modules[user]
            ours = type(module).__module__.startswith(("torch.nn.modules.", "torchnotes.nn.", "torchnotes.conversion."))
            return ours and not hooked(module) and not any(module.children())
        if user.op == "call_method":
            return True
        library = (getattr(user.target, "__module__", None) or "torch").partition(".")[0]
        return library in _LIBRARIES and not isinstance(user.target, (OpOverload, OpOverloadPacket))

    def _may_keep(self, user: Node, node: Node) -> bool:
        """Whether a step may store a result in an object other than a tensor: `x.append(y)`, `x[i] = y`, `x += [y]`."""
        if user.op != "call_method" and user.target not in _AUGMENTED:
            return False
        into = user.args[0]
        is_tensor = isinstance(into, Node) and (into in self.modules or _name(into) in _NEW_RESULTS)
        return into is not node and not is_tensor

    def _overwrites(self, user: Node, node: Node) -> bool:
        if user in self.modules:
            module = self.modules[user]
            return not isinstance(module, torch.nn.Identity) and bool(getattr(module, "inplace", False))
        if user.target in _AUGMENTED:
            return user.args[0] is node
        if _name(user) in ("embedding", "embedding_bag") and user.kwargs.get("max_norm") is not None:
            return True
        if _name(user) in ("batch_norm", "instance_norm") and node in (*user.args[1:], *user.kwargs.values()):
            return True  # as a running statistic
        return (
            _name(user).endswith("_")
            or node in _arguments(user.kwargs.get("out"))
            or bool(user.kwargs.get("inplace"))  # torch.nn.functional shows its options by name
        )

    def _may_pass_on(self, user: Node) -> bool:
        if user in self.modules:
            module = self.modules[user]
            return isinstance(module, torch.nn.Identity) or type(module).__module__.split(".")[-1] not in _NEW
        if _name(user) == "getattr":
            return user.args[1] not in _NUMBERS
        is_list = any(isinstance(argument, (list, tuple)) for argument in user.args)
        return _name(user) not in _NEW_RESULTS or (_name(user) in ("add", "mul") and is_list)


def _arguments(out: Any) -> tuple:
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


@dataclass
class Traces:
    """The traces of the largest traceable modules: in training and evaluation mode, with and without defaults."""

    of_roots: list[list[Trace]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # why modules do not trace, by name
    ran: dict[Module, set[Run]] = field(default_factory=lambda: defaultdict(set))  # the code that ran in each module


def traced(model: Module) -> Traces:
    """Traces the model or, if that fails, its parts, without modifying the model.

    A module that does not trace is a single step of the module that contains it. So is a module with hooks, which may
    look at its result.
    """
    traces = Traces()
    if not callable(sys.getprofile() or id):  # the profiler could not be restored
        traces.failures[""] = "a profiler is active"
        return traces
    if detect_fake_mode([*model.parameters(), *model.buffers()]):  # torch cannot copy them
        traces.failures[""] = "its tensors are fake"
        return traces
    try:
        copied = _copy(model)
    except Exception as error:  # the model's own code may raise anything; the same holds below
        traces.failures[""] = f"it cannot be copied: {_first_line(error)}"
        return traces
    names = {module: name for name, module in copied.named_modules()}
    graphs: dict[Module, list[tuple[Graph, Tracer]]] = {}
    closed: set[Module] = {module for module in names if hooked(module)}
    with _random_states_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in reversed(names):  # children first
            if any(module.children()) and not isinstance(module, _LISTS) and not Tracer().is_leaf_module(module):
                try:
                    graphs[module] = list(_graphs(module, copied, closed))
                except Exception as error:
                    closed.add(module)
                    traces.failures[names[module]] = _first_line(error)
    if any(tracer.held() for of_module in graphs.values() for _, tracer in of_module):
        gc.collect()  # drops what torch.fx leaves in reference cycles
    originals = {module: model.get_submodule(name) for module, name in names.items()}
    for _, tracer in itertools.chain.from_iterable(graphs.values()):
        for module, runs in tracer.ran.items():
            of_module = {dataclasses.replace(run, module=originals.get(run.module, run.module)) for run in runs}
            traces.ran[originals.get(module, module)] |= of_module
    for root in _roots(copied, graphs, closed):
        original = model.get_submodule(names[root])
        traces.of_roots.append([Trace(graph, original, tracer.held()) for graph, tracer in graphs[root]])
    return traces


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    state, numpy = random.getstate(), sys.modules.get("numpy")
    of_numpy = numpy and numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=()):
            yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(of_numpy)


def is_entered(module: Module) -> bool:
    """Whether a trace enters the module or any module inside it."""
    return isinstance(module, _LISTS) or not Tracer().is_leaf_module(module)


def hooked(module: Module) -> bool:
    return any(getattr(module, hooks) for hooks in HOOKS)


def _copy(model: Module) -> Module:
    """Copies all but parameters and hooks, because tracing runs the model's own code, which may change anything."""
    shared: list = [*model.parameters(), *(x for x in model.buffers() if isinstance(x, UninitializedBuffer))]
    for module in model.modules():
        shared += [hook for hooks in HOOKS for hook in getattr(module, hooks).values()]
        shared += [x for x in vars(module).values() if isinstance(x, torch.Tensor) and not x.is_leaf]  # weight_norm's
    return copy.deepcopy(model, {id(one): one for one in shared})


def _graphs(root: Module, model: Module, closed: Set[Module]) -> Iterator[tuple[Graph, Tracer]]:
    parameters = inspect.signature(root.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    for training in (True, False):
        for module in model.modules():
            module.training = training
        for arguments in (None, defaults) if defaults else (None,):
            tracer = Tracer(closed - {root})
            yield tracer.trace(root, arguments), tracer


def _roots(module: Module, graphs: Container[Module], closed: Set[Module], inside: bool = False) -> Iterator:
    """The largest modules that trace. Inside them only closed modules are searched."""
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
