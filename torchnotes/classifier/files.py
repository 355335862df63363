"""Files that commands write, and read again."""

import io
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .._bad_input import BadInput


def write(path: Path, format: str, content: dict[str, Any]) -> None:
    """Whole or not at all: what was there before stays until all is written."""
    partial = path.with_name(path.name + ".partial")
    whole = io.BytesIO()
    torch.save({"format": format, **content}, whole)
    partial.write_bytes(whole.getvalue())  # by Python, which says why it fails
    os.replace(partial, path)


def read(path: Path, format: str, kind: str) -> dict[str, Any]:
    """What `write` has written, of the same format: a kind of thing that the user knows."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    with understood(path, kind):
        found = loaded(content)
        if found.pop("format") != format:
            raise ValueError
    return found


@contextmanager
def understood(path: Path, kind: str) -> Iterator[None]:
    """Whatever goes wrong with the content of a file means that it is something else, or damaged."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{path} is not {kind} of python -m torchnotes train, or is damaged") from error


def loaded(content: bytes) -> dict[str, Any]:
    file = io.BytesIO(content)
    if zipfile.is_zipfile(file) and zipfile.ZipFile(file).testzip():
        raise ValueError("torch.load does not compare checksums")
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other kinds of files
        return torch.load(file, map_location="cpu", weights_only=True)
