"""The commands of python -m torchnotes. Each has `add_arguments(parser)`, `run(options)`, which returns the exit
status, and a docstring, whose first line the help shows. What they need beyond torch they import when they need it."""

import importlib
from typing import Any

COMMANDS = ("train", "predict", "bench", "signal", "check", "info")


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
