"""Reads arrays of numbers or words from a .npz file, and never executes what is in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._bad_input import BadInput, extra, one_line


def read_npz(path: Path, *alternatives: Sequence[str]) -> list[Any]:
    """An array for each list of names that it may have, or None. The first is required."""
    numpy = extra("numpy")
    try:
        with path.open("rb") as file:
            found = numpy.load(file, allow_pickle=False)
            if isinstance(found, numpy.ndarray):
                raise ValueError("it is a single array without a name")
            names = [next((name for name in names if name in found), None) for names in alternatives]
            if names[0] is not None:
                return [None if name is None else _array(found, name) for name in names]
            contents = ", ".join(found.files) or "nothing"
    except Exception as error:  # numpy passes on any exception of zipfile and of its own reader
        # numpy takes unknown files for pickles, and explains how to load one.
        why = "it is not an archive of numbers" if "pickle" in str(error) else one_line(error)
        raise BadInput(f"{path} cannot be read: {why}") from error
    raise BadInput(f"{path} contains {contents}, but no array called {' or '.join(alternatives[0])}")


def _array(archive: Any, name: str) -> Any:
    try:
        array = archive[name]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(f"{name} has Python objects: save {name}.astype(float), or {name}.astype(str)") from error
    if isinstance(array, bytes):
        raise ValueError(f"{name} is not an array")
    return array
