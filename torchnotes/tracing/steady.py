"""Whether the Python code of a forward does the same in every call.

torch.fx shows one path through it. Another call takes the same path if its branches, loops and called functions depend
only on constants and on attributes of the module, which can be compared before each call.

The reasons are in docs/decisions/convert.md.
"""

import ast
import functools
import inspect
import linecache
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch.nn import Module

Settings = tuple[tuple[str, Any], ...]  # names and values of attributes

_LIBRARIES = {"torch", "torchnotes", "numpy", "sympy", *sys.stdlib_module_names}
_PLAIN = (bool, int, float, str, type(None))
_FUNCTIONS = (FunctionType, BuiltinFunctionType, functools.partial)
_METHODS = (FunctionType, staticmethod, classmethod)
_KNOWN = (Module, torch.Tensor, list, dict, set, *_PLAIN)  # the classes whose methods are known
_BUILTINS = {"range", "len", "enumerate", "zip", "reversed", "list", "tuple", "min", "max", "bool", "int"}
_CHILDREN = {"items", "keys", "values", "children", "named_children"}
_REFLECTING = {"setattr", "delattr", "vars", "globals", "locals", "exec", "eval"}
_REFLECTING |= {"__dict__", "__class__", "__setattr__"}
_COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}  # parts of the surrounding code
_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)  # separate code
_NAMES = ("Match", "TryStar", "AsyncFor", "AsyncWith", "Await", "Yield", "YieldFrom", "Global", "Nonlocal")
_UNKNOWN: tuple[type, ...] = tuple(getattr(ast, name) for name in _NAMES if hasattr(ast, name))
_OF_OTHERS: Any = (ast.UnaryOp, ast.BinOp, ast.Compare, ast.BoolOp, ast.IfExp)
_OF_OTHERS += (ast.Tuple, ast.List, ast.Subscript, ast.Slice)


class Something:
    """Stands for any value except None."""


@dataclass(frozen=True)
class Run:
    """Code that ran while a module was running."""

    code: CodeType
    module: Module  # the innermost one
    names: frozenset[str]  # the arguments and free variables that hold the module
    namespace: dict[str, Any] = field(compare=False)

    @classmethod
    def of(cls, frame: FrameType, module: Module) -> "Run | None":
        """Returns None for code of a library, or for a part of other code."""
        code, namespace = frame.f_code, frame.f_globals
        space = str(namespace.get("__name__"))
        library = space.partition(".")[0] in _LIBRARIES or space.startswith("namedtuple_")
        if library or code.co_name in _COMPREHENSIONS:
            return None
        given = (*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], *code.co_freevars)
        names = frozenset(name for name in given if frame.f_locals.get(name) is module)
        return cls(code, module, names, namespace)


class Reader:
    """Reads source code, parsing each file once."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[tuple[int, str], list[Any]]] = {}  # by file, then by line and name

    def settings(self, runs: Iterable[Run]) -> dict[Module, Settings] | str:
        """Returns the attributes that determine the path through some code, or the name of a function that may vary."""
        functions = []
        for run in runs:
            nodes = self._nodes_of(run)
            if not nodes:
                return run.code.co_name
            functions += [_Function(node, run) for node in nodes]
        stored = {name for function in functions for name in function.stored}
        settings: dict[Module, dict[str, Any]] = defaultdict(dict)
        for function in functions:
            if not function.steady or not stored.isdisjoint(function.needed):
                return function.run.code.co_name
            settings[function.run.module] |= {name: x for name, x in function.read.items() if name not in stored}
        return {module: tuple(values.items()) for module, values in settings.items()}

    def _nodes_of(self, run: Run) -> list[Any]:
        file = run.code.co_filename
        if file not in self._nodes:
            nodes = self._nodes[file] = defaultdict(list)
            source = "".join(linecache.getlines(file, run.namespace))
            try:
                tree = ast.parse(source)
            except (SyntaxError, ValueError):  # not Python
                tree = ast.Module([], [])
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.Lambda)):
                    line = min(each.lineno for each in (node, *getattr(node, "decorator_list", ())))
                    nodes[line, getattr(node, "name", "<lambda>")].append(node)
        return self._nodes[file].get((run.code.co_firstlineno, run.code.co_name), [])


class _Function:
    """What the source of a function shows."""

    def __init__(self, node: Any, run: Run) -> None:
        self.run = run
        parts = list(_parts(node))
        arguments = {one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)}
        bound = defaultdict(list, {name: [None] for name in arguments})
        for name, value in _bindings(parts):
            bound[name].append(value)
        self._bound = bound.keys()
        self._names = {name for name in run.names if bound.get(name, [None]) == [None]}  # that mean the module
        attributes = [one for one in parts if isinstance(one, ast.Attribute)]
        self.stored = {one.attr for one in attributes if not isinstance(one.ctx, ast.Load)}
        self.needed: set[str] = set()  # attributes that must not be assigned
        self.read: dict[str, Any] = {}
        for one in attributes:
            if self._is_own(one) and self._is_plain(one.attr):
                self.read[one.attr] = self._value(one.attr)
        self._fixed = self._bound - arguments
        while changing := {name for name in self._fixed if not all(map(self._is_fixed, bound[name]))}:
            self._fixed -= changing
        called = [one.func for one in ast.walk(node) if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)]
        self.steady = all(map(self._is_steady, parts)) and all(map(self._is_known, called))

    def _value(self, name: str) -> Any:
        module: Any = self.run.module
        for of in (module._modules, module._parameters, module._buffers):
            if name in of:
                return of[name]
        return inspect.getattr_static(module, name, ...)

    def _is_own(self, part: Any) -> bool:
        """Whether it is an attribute of the module."""
        return isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in self._names

    def _is_method(self, name: str) -> bool:
        return isinstance(self._value(name), _METHODS) and name not in vars(self.run.module)

    def _is_plain(self, name: str) -> bool:
        return type(self._value(name)) in (*_PLAIN, *_FUNCTIONS) and not self._is_method(name)

    def _is_steady(self, part: Any) -> bool:
        """Whether this part of the source, not counting the parts inside it, does the same every time."""
        match part:
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                return self._is_fixed(test)
            case ast.For(iter=over):
                return self._is_loop(over)
            case ast.comprehension(iter=over, ifs=tests):
                return self._is_loop(over) and all(map(self._is_fixed, tests))
            case ast.BoolOp(values=[*tests, _]):
                return all(map(self._is_fixed, tests))
            case ast.Subscript(slice=index, ctx=ast.Load()):
                return self._is_fixed(index)
            case ast.Call(func=ast.Name("type"), args=[ast.Name(name)]):
                return name not in self._names
            case ast.Call(func=function):
                return self._is_known(function)
            case ast.Try(handlers=handlers):
                return not handlers
            case ast.With(items=items):
                return all(self._is_torchs(one.context_expr) for one in items)
            case ast.Name(name) | ast.Attribute(attr=name):
                return name not in _REFLECTING
        return not isinstance(part, _UNKNOWN)

    def _is_loop(self, over: Any) -> bool:
        is_literal = isinstance(over, (ast.Tuple, ast.List))
        return self._is_fixed(over) or (is_literal and not any(isinstance(one, ast.Starred) for one in over.elts))

    def _is_fixed(self, value: Any) -> bool:
        """Whether an expression or a function is the same every time."""
        match value:
            case ast.Constant() | ast.Lambda() | ast.FunctionDef():
                return True
            case ast.Name(name):
                return name in self._names or name in self._fixed
            case ast.Attribute(attr=name):
                if not self._is_own(value):
                    return False
                self.needed.add(name)
                if isinstance(self._value(name), Module):
                    self.read[name] = Something
                return name in self.read
            case ast.Compare(
                left=ast.Attribute(attr=name) as left, ops=[ast.Is() | ast.IsNot()], comparators=[ast.Constant(None)]
            ):
                if self._is_own(left) and not hasattr(type(self._value(name)), "__get__"):
                    self.needed.add(name)
                    self.read.setdefault(name, Something)
                return self._is_own(left) and name in self.read
            case ast.Call(func=ast.Name(name), args=arguments, keywords=[]):
                is_builtin = name in _BUILTINS and name not in self._bound and name not in self.run.namespace
                return is_builtin and all(map(self._is_fixed, arguments))
            case ast.Call(func=ast.Attribute(value=of, attr=name), args=[], keywords=[]):
                return name in _CHILDREN and self._is_fixed(of)
        if not isinstance(value, _OF_OTHERS):
            return False
        return all(self._is_fixed(one) for one in ast.iter_child_nodes(value) if isinstance(one, ast.expr))

    def _is_known(self, function: Any) -> bool:
        """Whether a call always calls the same function, or a method of a tensor."""
        match function:
            case ast.Name(name):
                return name not in self._bound or self._is_fixed(function)
            case ast.Attribute(attr=name) if self._is_own(function):
                self.needed.add(name)
                return self._is_method(name) or name in self.read or isinstance(self._value(name), Module)
            case ast.Attribute(value=of):
                inner = of
                while isinstance(inner, (ast.Attribute, ast.Subscript)) and not self._is_own(inner):
                    inner = inner.value
                kinds = _KNOWN if inner is of else (Module, torch.Tensor)
                return not isinstance(inner, ast.Attribute) or isinstance(self._value(inner.attr), kinds)
        return self._is_fixed(function)

    def _is_torchs(self, context: Any) -> bool:
        """Whether a context manager belongs to torch, and so does not suppress exceptions."""
        while isinstance(context, (ast.Call, ast.Attribute)):
            context = context.func if isinstance(context, ast.Call) else context.value
        found = self.run.namespace.get(context.id) if isinstance(context, ast.Name) else None
        return str(getattr(found, "__module__", getattr(found, "__name__", ""))).partition(".")[0] == "torch"


def _parts(function: Any) -> Iterator[Any]:
    """The parts of a function's source, except nested functions and checks that only raise."""
    parts = [*function.body] if isinstance(function.body, list) else [function.body]
    while parts:
        part = parts.pop()
        fails = isinstance(part, ast.If) and not part.orelse and all(isinstance(one, ast.Raise) for one in part.body)
        if not fails and not isinstance(part, (ast.Assert, ast.Raise)):
            yield part
            if isinstance(part, ast.AnnAssign):
                parts += [part.target, part.value or part.target]
            elif not isinstance(part, _NESTED):
                parts += ast.iter_child_nodes(part)


def _bindings(parts: list[Any]) -> Iterator[tuple[str, Any]]:
    """The names that a function assigns, with the expressions assigned; None stands for anything else."""
    for part in parts:
        match part:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.AugAssign(target=target, value=value):
                targets = [target]
            case ast.AnnAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
                targets = [target]
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                targets = [target]
            case ast.With(items=items):
                targets, value = [one.optional_vars for one in items if one.optional_vars], None
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, part
                continue
            case _:
                continue
        names = [one for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        yield from ((one.id, value) for one in names if isinstance(one.ctx, ast.Store))
