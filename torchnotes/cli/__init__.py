"""The commands of python -m torchnotes.

Each has `add_arguments(parser)`, `run(options)`, which returns the exit status, and a docstring, whose first line
summarizes it in the help. Only the chosen command is imported, and optional packages only when they are needed.
"""

import ast
from pathlib import Path

COMMANDS = ("train", "predict", "bench", "signal", "check", "info")


def summary(command: str) -> str:
    """The first line of a command's docstring, without the import of the command, which takes seconds."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    return str(ast.get_docstring(ast.parse(source))).splitlines()[0]
