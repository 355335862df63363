"""What users of python -m torchnotes have to change: their input, a file, or a package that is missing."""

import importlib
from pathlib import Path
from typing import Any


class BadInput(Exception):
    """What the user has to change, in one line: the command ends with status 2."""


def extra(module: str, package: str = "") -> Any:
    """A module that torchnotes itself does without."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = package or module.split(".")[0]
        raise BadInput(f"this needs {missing}: pip install {missing}, or torchnotes[tools] for all of them") from error
    except Exception as error:  # of a package that is broken, or wrongly set up
        raise BadInput(f"{module} cannot be imported: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_writable(path: Path) -> None:
    """What would keep a file from being written is found before the work; what it holds stays until there is more."""
    try:
        with path.open("ab"):
            pass
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise BadInput(f"{path}: nothing can be written there: {error.strerror}") from error
