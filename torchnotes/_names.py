"""Errors for names of torch that torchnotes does not provide (docs/decisions/names.md)."""

import difflib
import importlib
from collections.abc import Callable
from typing import NoReturn


def missing(ours: str, theirs: str) -> Callable[[str], NoReturn]:
    """The ``__getattr__`` of a module that has some of the names of a module of torch."""

    def __getattr__(name: str) -> NoReturn:
        # With a name but no object, Python does not append a suggestion of its own.
        raise AttributeError(_explanation(ours, theirs, name), name=name)

    return __getattr__


def _explanation(ours: str, theirs: str, name: str) -> str:
    without = f"module {ours!r} has no attribute {name!r}"
    if name.startswith("_"):  # probed by Python and its tools
        return without
    if hasattr(importlib.import_module("torchnotes"), name):
        return f"{without}: torchnotes.{name} has ours, {theirs}.{name} torch's"
    of_torch = importlib.import_module(theirs)
    if hasattr(of_torch, name):
        return f"{without}: use {theirs}.{name}, which works together with torchnotes"
    of_ours = importlib.import_module(ours)
    candidates = {**_public(of_torch, theirs), **_public(of_ours, ours)}  # ours replace torch's of the same name
    similar = difflib.get_close_matches(name, candidates, n=1)
    return f"{without}. Did you mean: {candidates[similar[0]]}?" if similar else without


def _public(module: object, path: str) -> dict[str, str]:
    return {name: f"{path}.{name}" for name in vars(module) if not name.startswith("_")}
