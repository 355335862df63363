"""Errors that users of python -m torchnotes can fix: invalid input, files that cannot be written, missing packages."""

import importlib
from pathlib import Path
from typing import Any


class BadInput(Exception):
    """One line that says what the user has to change. The command ends with status 2."""


def extra(module: str, package: str = "") -> Any:
    """Imports a module of an optional package."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = package or module.split(".")[0]
        raise BadInput(f"this requires {missing}: pip install {missing} or torchnotes[tools]") from error
    except Exception as error:  # the package is broken
        raise BadInput(f"{module} cannot be imported: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_writable(path: Path) -> None:
    """Finds out before the work whether a file can be written. Its content remains until it is replaced."""
    try:
        with path.open("ab"):
            pass
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise BadInput(f"{path} is not writable: {error.strerror}") from error
