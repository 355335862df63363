"""Rows of the user's table in a report."""

from ..classifier.program import Program

LISTED = 12  # rows
COLUMNS = 40


def names_of(program: Program) -> list[str]:
    return [f"{feature.name:.40}" for feature in program.rows.features][:COLUMNS]


def values_of(program: Program, row: int) -> list[str]:
    """The values of a row as the file has them."""
    columns = (program.rows.table[feature.name] for feature in program.rows.features)
    values = [column[row] for column, _ in zip(columns, range(COLUMNS), strict=False)]
    return [f"{value:.40}" if isinstance(value, str) else "" if value is None else f"{value:g}" for value in values]
