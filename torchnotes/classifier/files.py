"""Files that commands write and read."""

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
    """Writes atomically: an existing file remains until the new one is complete."""
    partial = path.with_name(path.name + ".partial")
    whole = io.BytesIO()
    torch.save({"format": format, **content}, whole)
    partial.write_bytes(whole.getvalue())  # Python's error messages give the cause
    os.replace(partial, path)


def read(path: Path, format: str, kind: str) -> dict[str, Any]:
    """Reads what `write` has written in the same format. Error messages call it `kind`."""
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
    """Reports every error in the content of a file as a file of another kind, or a damaged one."""
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
        warnings.simplefilter("ignore")  # about other formats
        return torch.load(file, map_location="cpu", weights_only=True)
