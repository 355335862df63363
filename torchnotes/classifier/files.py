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

OLD_FORMATS = ("torchnotes classifier 1", "torchnotes training 1")


def write(path: Path, format: str, content: dict[str, Any]) -> None:
    """Writes atomically: an existing file remains until the new one is complete."""
    partial = path.with_name(path.name + ".partial")
    file = io.BytesIO()
    torch.save({"format": format, **content}, file)
    partial.write_bytes(file.getvalue())  # unlike torch's, Python's error messages name the cause
    os.replace(partial, path)


def read(path: Path, format: str, kind: str) -> dict[str, Any]:
    """Reads a file that `write` wrote in the same format. Error messages call it `kind`."""
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    with parsing(path, kind), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other formats
        if zipfile.is_zipfile(file) and zipfile.ZipFile(file).testzip():
            raise ValueError("torch.load does not compare checksums")
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
        found = content.pop("format")
        if found in OLD_FORMATS:
            raise BadInput(
                f"{path} was written by an older version of torchnotes, which this one cannot read: train again"
            )
        if found != format:
            raise ValueError
    return content


@contextmanager
def parsing(path: Path, kind: str) -> Iterator[None]:
    """Reports any error in the content of a file as a file of another kind, or a damaged one."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{path} is not {kind} of python -m torchnotes train, or is damaged") from error
