"""The names of operations and optimizers, the same for `check` and `bench`."""

import argparse
import difflib
from collections.abc import Collection

from .._bad_input import BadInput


def called(public: str) -> str:
    """The name of an operation's file: init.normal_ is called normal, and optim.SGD sgd."""
    return public.lower().rstrip("_")


def add_operations(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help=f"the operations to {verb} (default: all)")


def selected(requested: Collection[str], known: Collection[str], verb: str) -> list[str]:
    """The known names that were requested, in any spelling, or all."""
    names = {called(name): name for name in requested}
    for name in names.keys() - set(known):
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
        raise BadInput(f"there is no operation {names[name]!r} to {verb}: {hint}")
    return [name for name in known if name in names or not names]
