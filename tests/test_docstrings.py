"""Everything public has a docstring: a summary, the parameters of the signature, and an example that runs."""

import doctest
import importlib
import inspect
import pydoc
import re
from typing import Any

import pytest
import torch

import torchnotes
from torchnotes._docs import arguments_from

MODULES = (
    *("torchnotes", "torchnotes.functional", "torchnotes.init", "torchnotes.nn", "torchnotes.nn.utils"),
    *("torchnotes.optim", "torchnotes.optim.newton", "torchnotes.signal", "torchnotes.testing"),
    *("torchnotes.signal.lightning", "torchnotes.signal.transformers"),
    *("torchnotes.testing.makers", "torchnotes.autograd", "torchnotes.sklearn"),
)
STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
EXAMPLE_NAMES = {**vars(torchnotes), "torch": torch, "torchnotes": torchnotes, "F": torchnotes.functional}


def public(name: str) -> dict[str, Any]:
    """The functions and classes that a module defines, lists in __all__, or imports as `from .x import y as y`."""
    module = importlib.import_module(name)
    imported = {*getattr(module, "__all__", ()), *re.findall(r"import (\w+) as \1\b", inspect.getsource(module))}
    return {
        f"{name}.{key}": x
        for key, x in vars(module).items()
        if inspect.isfunction(x) or inspect.isclass(x)
        if not key.startswith("_") and x.__module__.startswith("torchnotes.")
        if key in imported or x.__module__ == name
    }


NAMED = [item for module in MODULES for item in public(module).items()]
PUBLIC = {x: name for name, x in reversed(NAMED)}  # by the first of several names
by_name = pytest.mark.parametrize("x", PUBLIC, ids=PUBLIC.get)


def section(x: Any, *titles: str) -> str:
    """The indented block below a title such as `Args:`, or nothing."""
    found = re.search(rf"^(?:{'|'.join(titles)}):\n((?:    .*\n?|\n)*)", inspect.getdoc(x) or "", re.MULTILINE)
    return found[1] if found else ""


def parameters(x: Any) -> set[str]:
    if inspect.isclass(x) and issubclass(x, Exception):  # its constructor is C
        return set()
    names = {STARS.get(p.kind, "") + p.name for p in inspect.signature(x).parameters.values()}
    return set() if "*args" in names else {name for name in names if not name.startswith("_")}


def test_finds_what_is_public():
    assert {"torchnotes.functional.tanh", "torchnotes.nn.MLP", "torchnotes.optim.Adam"} <= set(PUBLIC.values())


@by_name
def test_describes_all_parameters_and_the_result(x: Any):
    own = vars(x)["__doc__"] if inspect.isclass(x) else x.__doc__  # not that of torch's class
    assert re.match(r"[A-Z][^\n]*\.(\n\n|$)", own), "the first line is a sentence"
    described = re.findall(r"^ {4}(\*{0,2}\w+(?:, \w+)*): ", section(x, "Args", "Attributes"), re.MULTILINE)
    assert {name for names in described for name in names.split(", ")} == parameters(x)
    returns_nothing = inspect.isclass(x) or inspect.signature(x).return_annotation is None
    assert bool(section(x, "Returns")) != returns_nothing


@by_name
def test_describes_every_parameter_itself(x: Any):
    """Instead of referring to another docstring."""
    args = section(x, "Args", "Attributes")
    assert not re.search(r": (As|Like|See)\b", args)
    names = re.findall(r"\w+", " ".join(re.findall(r"^ {4}(\w+(?:, \w+)*): ", args, re.MULTILINE)))
    assert len(names) == len(set(names))


def source(tensor: int, a: int, b: int, generator: int) -> None:
    """Does one thing.

    Args:
        tensor: Its tensor.
        a, b: The bounds,
            in order.
        generator: Its generator.

    Example:
        >>> 1
    """


def other(b: int, c: int) -> None:
    """Does another.

    Args:
        b: Another b.
        c: Its c.
    """


def test_arguments_from_other_docstrings():
    """Own descriptions come first, then those of the first source, in the order of the signature."""

    @arguments_from(source, other)
    def f(generator: int, c: int, b: int, a: int, tensor: int, unknown: int) -> None:
        """Does something else.

        Args:
            tensor: Own tensor: a line
                and another.

        Example:
            >>> 2
        """

    @arguments_from(source)
    class Without:
        """Has none of its own.

        Shape:
            Any.
        """

        def __init__(self, a: int, tensor: int) -> None: ...

    assert f.__doc__ == inspect.cleandoc("""Does something else.

        Args:
            generator: Its generator.
            c: Its c.
            b, a: The bounds,
                in order.
            tensor: Own tensor: a line
                and another.

        Example:
            >>> 2
        """)
    assert Without.__doc__ == inspect.cleandoc("""Has none of its own.

        Args:
            a: The bounds,
                in order.
            tensor: Its tensor.

        Shape:
            Any.
        """)


def test_help_is_complete():
    text = pydoc.plain(pydoc.render_doc(torchnotes.nn.BatchNorm2d))
    for name in inspect.signature(torchnotes.nn.BatchNorm2d).parameters:
        assert re.search(rf"^ \|  {' ' * 4}(\w+, )*{name}(, \w+)*: [A-Z]", text, re.MULTILINE), name


@pytest.mark.parametrize("name", ("SGD", "RMSprop", "Adam", "AdamW"))
def test_signatures_of_optimizers(name: str):
    """Those of torch, and our options."""
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (torchnotes.optim, torch.optim))
    assert ours.keys() > theirs.keys()
    for parameter in theirs.values():
        assert (ours[parameter.name].default, ours[parameter.name].kind) == (parameter.default, parameter.kind)
    assert all(ours[more].kind is inspect.Parameter.KEYWORD_ONLY for more in ours.keys() - theirs.keys())


@by_name
def test_example_runs(x: Any):
    example = doctest.DocTestParser().get_doctest(section(x, "Example"), dict(EXAMPLE_NAMES), PUBLIC[x], None, None)
    assert example.examples or section(x, "Attributes")  # a result, which the example of its function shows
    failures: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=failures.append)
    assert not failures, "".join(failures)
