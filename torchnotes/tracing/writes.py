"""Whether the code of a forward writes in place, as far as its bytecode shows."""

import contextlib
import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch.nn import Module

from .trace import HOOKS

_LIBRARIES = ("torch", "torchnotes", "builtins")


def writes_in_place(module: Module) -> bool:
    """Whether a module's forward or hooks, or functions they call, have statements that may overwrite a tensor:
    `y += x`, `y[i] = x`, `y.add_(x)`, `out=y`, `inplace=True`."""
    hooks = [hook for kind in HOOKS for hook in getattr(module, kind).values()]
    return any(_writes(code) for function in _reached([module.forward, *hooks], module) for code in _codes(function))


def _reached(functions: list[Any], module: Module) -> Iterator[FunctionType]:
    seen: set[FunctionType] = set()
    while functions:
        function = _in_python(functions.pop())
        if function is None or function in seen or _library(function) in _LIBRARIES:
            continue
        seen.add(function)
        yield function
        steps = [step for code in _codes(function) for step in dis.get_instructions(code)]
        names = {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}
        functions += [function.__globals__[name] for name in names & function.__globals__.keys()]
        names = {name for code in _codes(function) for name in code.co_names}
        functions += [inspect.getattr_static(module, name, None) for name in names]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                functions.append(cell.cell_contents)


def _library(function: FunctionType) -> str:
    return (function.__module__ or "").partition(".")[0]


def _in_python(function: Any) -> FunctionType | None:
    while not isinstance(function, FunctionType):
        if isinstance(function, functools.partial):
            function = function.func
        else:
            function = getattr(function, "__func__", None) or getattr(function, "__wrapped__", None)
        if function is None:
            return None
    return function


def _codes(function: FunctionType) -> Iterator[CodeType]:
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        yield code
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _writes(code: CodeType) -> bool:
    keywords = {name for constant in code.co_consts if isinstance(constant, tuple) for name in constant}
    return (
        any(name.endswith("_") and not name.endswith("__") for name in code.co_names)
        or not keywords.isdisjoint(("out", "inplace"))
        or any(
            one.opname == "STORE_SUBSCR"
            or one.opname.startswith("INPLACE")
            or (one.opname == "BINARY_OP" and one.argrepr.endswith("="))
            for one in dis.get_instructions(code)
        )
    )
