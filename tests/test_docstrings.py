"""Everything public has a docstring: a summary, the parameters of the signature, and an example that runs."""

import doctest
import importlib
import inspect
import re
from typing import Any

import pytest
import torch

import torchnotes

STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
PLACES = ("torchnotes.functional", "torchnotes.nn", "torchnotes.nn.utils")


def public(place: str) -> dict[str, Any]:
    """The functions and classes that a module defines, or imports as `from .x import y as y`."""
    module = importlib.import_module(place)
    imported = set(re.findall(r"import (\w+) as \1\b", inspect.getsource(module)))
    return {
        f"{place}.{name}": x
        for name, x in vars(module).items()
        if inspect.isroutine(x) or inspect.isclass(x)
        if not name.startswith("_") and (name in imported or x.__module__ == place)
    }


PUBLIC = {name: x for place in PLACES for name, x in public(place).items()}


def section(x: Any, *titles: str) -> str:
    """The indented block below a title such as `Args:`, or nothing."""
    found = re.search(rf"^(?:{'|'.join(titles)}):\n((?:    .*\n?|\n)*)", inspect.getdoc(x) or "", re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("name", PUBLIC)
def test_describes_every_parameter(name: str):
    x = PUBLIC[name]
    assert re.match(r"[A-Z][^\n]*\.(\n\n|$)", vars(x)["__doc__"] if inspect.isclass(x) else x.__doc__)
    lists = re.findall(r"^ {4}(\*{0,2}\w+(?:, \w+)*):", section(x, "Args", "Attributes"), re.MULTILINE)
    signature = inspect.signature(x).parameters.values()
    parameters = [STARS.get(p.kind, "") + p.name for p in signature if p.name[0] != "_"]
    if "*args" in parameters:  # those of torch.nn.Module
        parameters = []
    assert sorted(", ".join(lists).split(", ")) == sorted(parameters or [""])
    assert inspect.isclass(x) or section(x, "Returns")


@pytest.mark.parametrize("name", PUBLIC)
def test_example_runs(name: str):
    names = {**vars(torchnotes), "torch": torch, "torchnotes": torchnotes, "F": torchnotes.functional}
    example = section(PUBLIC[name], "Example")
    test = doctest.DocTestParser().get_doctest(example, names, name, None, None)
    assert test.examples
    failures: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=failures.append)
    assert not failures, "".join(failures)
