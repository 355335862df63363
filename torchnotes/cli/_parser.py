"""Parses the command line, and prints help and errors, without torch."""

import argparse
import importlib
import inspect
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import NoReturn

import torchnotes

from . import COMMANDS, summary

PROGRAM = "python -m torchnotes"
DELAY = 10  # seconds, in which torchrun's first process reports an error and ends


class Formatter(argparse.HelpFormatter):
    """Wraps paragraphs at the terminal's width. Examples, which are indented, remain as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = inspect.cleandoc(text).split("\n\n")
        return "\n\n".join(part if part.startswith(" ") else wrapped(part, width) for part in paragraphs)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width).splitlines()


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(fail(self.prog, message))  # without the usage, which takes many lines


def wrapped(text: str, width: int) -> str:
    """Breaks lines between words only: neither the names of options at hyphens, nor long paths."""
    return textwrap.fill(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)


def fail(program: str, message: str) -> int:
    """Prints an error, in a single line unless somebody reads it on a terminal, and returns the exit status."""
    if os.environ.get("RANK", "0") != "0" and _launched():
        time.sleep(DELAY)  # torchrun ends this process as soon as the first one has ended
    lines = f"{program}: error: {message}".splitlines()
    if sys.stderr.isatty():
        explanation = wrapped(lines[0], shutil.get_terminal_size().columns)
        print(explanation, *lines[1:], sep="\n", file=sys.stderr)  # commands can be pasted only if they are not wrapped
    else:
        print(*lines, file=sys.stderr)
    return 2


def _launched() -> bool:
    from ..classifier.ranks import launched

    return launched()


def parse(arguments: Sequence[str], description: str) -> argparse.Namespace | None:
    """The options, or None after printing help because there are no arguments.

    Imports only the command that the arguments name.
    """
    parser = Parser(prog=PROGRAM, description=description, formatter_class=Formatter)
    parser.add_argument("--version", action="version", version=f"torchnotes {torchnotes.__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = parsers.add_parser(name, help=summary(name), formatter_class=Formatter)
        if name in arguments:
            module = importlib.import_module(f"torchnotes.cli.{name}")
            command.description = module.__doc__
            module.add_arguments(command)
    if not arguments:
        parser.print_help()
        return None
    return parser.parse_args(arguments)
