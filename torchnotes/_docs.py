"""Arguments that several functions or classes share are described once."""

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_ARGS = re.compile(r"^Args:\n((?: .*\n|\n)*)|(?=^(?:Shape|Returns|Example):\n)", re.MULTILINE)  # or where they belong
_ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", re.MULTILINE)


def arguments_from(*sources: Any) -> Callable[[_T], _T]:
    """Completes the docstring of a function or class: describes the other arguments as the first source that has them.

    They are in the order of the signature.
    """

    def complete(x: Any) -> Any:
        if x.__doc__ is None:  # python -OO
            return x
        described = _entries(x)
        for source in sources:
            described = {**_entries(source), **described}
        names: dict[str, list[str]] = {}  # by description
        for name in inspect.signature(x).parameters:
            if name in described:
                names.setdefault(described[name], []).append(name)
        args = "".join(f"    {', '.join(together)}: {what}\n" for what, together in names.items())
        x.__doc__ = _ARGS.sub(lambda _: f"Args:\n{args}\n", _text(x), count=1).rstrip()
        return x

    return complete


def _text(x: Any) -> str:
    return inspect.cleandoc(x.__doc__) + "\n"


def _entries(x: Any) -> dict[str, str]:
    """The descriptions of arguments, by name."""
    found = _ARGS.search(_text(x))
    entries = _ENTRY.findall(found[1] or "") if found else ()
    return {name: what for names, what in entries for name in names.split(", ")}
