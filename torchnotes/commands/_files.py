"""Files that commands write, and read again."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from . import BadInput


def check_writable(path: Path) -> None:
    """What would keep a file from being written is found before the work; what it holds stays until there is more."""
    try:
        with path.open("ab"):
            pass
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise BadInput(f"{path}: nothing can be written there: {error.strerror}") from error


def write(path: Path, format: str, content: dict[str, Any]) -> None:
    """Whole or not at all: what was there before stays until all is written."""
    partial = path.with_name(path.name + ".partial")
    torch.save({"format": format, **content}, partial)
    os.replace(partial, path)


def read(path: Path, format: str, kind: str) -> dict[str, Any]:
    """What `write` has written, of the same format: a kind of thing that the user knows."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise BadInput(f"{path} is not {kind} of python -m torchnotes train") from error
    if not isinstance(found, dict) or found.pop("format", None) != format:
        raise BadInput(f"{path} is not {kind} of python -m torchnotes train")
    return found
