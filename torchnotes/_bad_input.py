"""Errors that users of python -m torchnotes can fix: invalid input, files that cannot be written, missing packages."""

import importlib
from pathlib import Path
from typing import Any

from ._shell import command

# The package that has a module, and the extra of torchnotes that it belongs to
PACKAGES = {
    "matplotlib": ("matplotlib", "tools"),
    "numpy": ("numpy", "tables"),
    "pandas": ("pandas", "tables"),
    "rich": ("rich", "tools"),
    "sklearn": ("scikit-learn", "tools"),
}


class BadInput(Exception):
    """Says what the user has to change. The command ends with status 2. A command to paste has a line of its own."""


def extra(module: str) -> Any:
    """Imports a module of an optional package."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = PACKAGES[module.split(".")[0]][0]
        raise BadInput(f"this requires {package}, which is not installed:\n{install(module)}") from error
    except Exception as error:  # the package is broken
        raise BadInput(f"{module} cannot be imported: {one_line(error)}") from error


def install(module: str) -> str:
    """The command that installs the package of a module, with the extra that it belongs to if torchnotes is installed.

    In a checkout, pip would look for torchnotes elsewhere.
    """
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    package, extra = PACKAGES[module.split(".")[0]]
    try:
        version("torchnotes")
    except PackageNotFoundError:
        return command("pip", "install", package)
    return command("pip", "install", f"torchnotes[{extra}]")


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
