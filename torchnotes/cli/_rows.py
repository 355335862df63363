"""Rows of the user's table in a report."""

import textwrap

from ..classifier.program import Program
from ..classifier.tables import DIGITS

LISTED = 12  # rows
COLUMNS = 40


def place(program: Program, row: int) -> str:
    """Where a row is in the file."""
    return program.rows.table.place(row)


def names(program: Program) -> list[str]:
    return [f"{feature.name:.40}" for feature in program.rows.features][:COLUMNS]


def values(program: Program, row: int) -> list[str]:
    """The values of a row as the file has them."""
    columns = (program.rows.table[feature.name] for feature in program.rows.features)
    found = [column[row] for column, _ in zip(columns, range(COLUMNS), strict=False)]
    return [f"{value:.40}" if isinstance(value, str) else "" if value is None else f"{value:g}" for value in found]


def line(program: Program, row: int, what: str) -> str:
    """A line about a row that shows its values, as far as they fit."""
    start = f"{place(program, row)}: {what}"
    if program.rows.table.source == DIGITS:
        return start
    pairs = zip(names(program), values(program, row), strict=True)
    known = "; ".join(f"{name} {value}" for name, value in pairs if value)
    return f"{start} ({textwrap.shorten(known, 80, placeholder=' ...')})"
