"""JSON without NaN and infinity, which most parsers reject."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from .._bad_input import check_writable

STDOUT = "-"


def add_json(parser: argparse.ArgumentParser, content: str) -> None:
    parser.add_argument("--json", metavar="FILE", help=f"write {content} to this file, or to standard output (-)")


def check_json(target: str | None) -> None:
    if target not in (None, STDOUT):
        check_writable(Path(target))


def text_stream(target: str | None) -> TextIO:
    """Where everything else is printed."""
    return sys.stderr if target == STDOUT else sys.stdout


def write_json(target: str | None, content: Any) -> None:
    if target == STDOUT:
        print(strict_json(content))
    elif target is not None:
        Path(target).write_text(strict_json(content) + "\n", encoding="utf-8")


def strict_json(content: Any) -> str:
    """Replaces NaN and infinity by null."""
    return json.dumps(json.loads(json.dumps(content), parse_constant=lambda name: None), indent=1)
