"""Tables: files with columns, and arrays. pandas reads the files."""

import csv
import io
import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._bad_input import BadInput, extra, one_line
from .npz import read_npz

DIGITS = "digits"  # scikit-learn's: 1797 images of 8 x 8 pixels
ARRAYS, TEXTS = (".npz",), (".csv", ".tsv", ".txt")
X_NAMES, Y_NAMES = ("x", "X", "data"), ("y", "Y", "target", "labels")
SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars", ",": "commas"}
MISSING = {"", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "NaT", "NULL", "null", "None"}


@dataclass(frozen=True)
class Table:
    """Columns with names. Each is a numpy array: of float64, where NaN is missing, or of texts, where None is."""

    source: str  # the path of the file
    names: tuple[str, ...]
    columns: tuple[Any, ...]
    target: str | None = None  # the name of the column that the file itself calls the target
    named: bool = False  # whether the file has names
    separator: str = ""
    header: str = ""  # the first line, which was skipped
    lines: Any = None  # the line in the file at which each row starts

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, name: str) -> Any:
        return self.columns[self.names.index(name)]

    def rows(self, selected: Any) -> "Table":
        lines = None if self.lines is None else self.lines[selected]
        return replace(self, columns=tuple(column[selected] for column in self.columns), lines=lines)

    def without(self, names: Collection[str]) -> "Table":
        kept = [i for i, name in enumerate(self.names) if name not in names]
        return replace(self, names=tuple(self.names[i] for i in kept), columns=tuple(self.columns[i] for i in kept))

    def place(self, row: int) -> str:
        """Where a row is in the file, for messages."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"


def digits() -> Table:
    data = extra("sklearn.datasets").load_digits()
    return _of_arrays(DIGITS, data.data, data.target)


def read(path: Path, expected: Collection[str] = ()) -> Table:
    """Reads a file. A first line that contains one of the expected names is a header."""
    suffix = path.suffix.lower()
    if suffix not in ARRAYS + TEXTS:
        raise BadInput(f"{path}: the name of a data file must end in {', '.join(TEXTS)} or {ARRAYS[0]}")
    table = _read_arrays(path) if suffix in ARRAYS else _read_text(path, expected)
    if not len(table):
        raise BadInput(f"{path} has no rows")
    return table


def is_missing(column: Any) -> Any:
    return column != column if column.dtype.kind == "f" else column == None  # noqa: E711 (elementwise)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text not in MISSING


def _read_arrays(path: Path) -> Table:
    x, y = read_npz(path, X_NAMES, Y_NAMES)
    if x.dtype.kind not in "fiub":
        raise BadInput(f"{path}: x must be real numbers, not {x.dtype}")
    x = x.reshape(len(x), -1) if x.ndim > 2 and len(x) else x
    if x.ndim != 2 or 0 in x.shape:
        raise BadInput(f"{path}: x must be a table with rows and columns, but has shape {x.shape}")
    if y is not None and y.shape != (len(x),):
        raise BadInput(f"{path}: y has shape {y.shape}, but x has {len(x)} rows")
    if y is not None and y.dtype.kind not in "iubUf":
        raise BadInput(f"{path}: y must be classes (integers or words) or numbers, not {y.dtype}")
    return _of_arrays(str(path), x, y)


def _of_arrays(source: str, x: Any, y: Any) -> Table:
    numpy = extra("numpy")
    columns = [*numpy.asarray(x, numpy.float64).T]
    names = [f"x{i}" for i in range(1, len(columns) + 1)]
    if y is None:
        return Table(source, tuple(names), tuple(columns))
    texts = [None if text in MISSING else text for text in map(str, y.tolist())]
    return Table(source, (*names, "y"), (*columns, numpy.array(texts, object)), "y")


def _read_text(path: Path, expected: Collection[str]) -> Table:
    pandas = extra("pandas")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} cannot be read: it is not text in UTF-8 (byte {error.start + 1})") from error
    if "\0" in text:
        raise BadInput(f"{path} cannot be read: it is not a text")
    if not text.strip():
        raise BadInput(f"{path} has no rows")
    blank = re.match(r"(?:\s*\n)?", text)
    assert blank is not None
    content, above = text[blank.end() :], blank[0].count("\n")
    separator = _separator(content)
    verbatim: dict[str, Any] = dict(header=None, dtype=object, keep_default_na=False, skip_blank_lines=False)
    try:
        # Unlike pandas's parser in C, the one in Python tells a line that is too short from one with empty cells.
        cells = pandas.read_csv(
            io.StringIO(content, newline=None), sep=separator, engine="python", skipinitialspace=True, **verbatim
        )
    except Exception as error:  # of several types
        if match := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error)):
            width, line, found = map(int, match.groups())
            raise BadInput(f"{path}, line {line + above}: {found} columns instead of {width}") from error
        raise BadInput(f"{path} cannot be read: {one_line(error)}") from error
    return _of_lines(path, cells.to_numpy(object).tolist(), above + 1, separator, expected)


def _separator(text: str) -> str:
    """The one that divides the first lines into the same number of columns, else the first line into most."""
    start = text[: text.find("\n", 20_000) + 1 or None]

    def widths(separator: str) -> list[int]:
        rows = csv.reader(io.StringIO(start, newline=None), delimiter=separator)
        return [len(row) for row in itertools.islice(rows, 50) if any(map(str.strip, row))]

    found = {separator: widths(separator) for separator in SEPARATORS}
    consistent = [separator for separator, lengths in found.items() if set(lengths) != {1} and len(set(lengths)) == 1]
    return consistent[0] if consistent else max(found, key=lambda separator: found[separator][0])


def _of_lines(path: Path, found: list[list[Any]], start: int, separator: str, expected: Collection[str]) -> Table:
    """The table of a file's cells. Those that a line lacks are None."""
    numpy = extra("numpy")
    rows, lines, line = [], [], start
    for row in found:
        if any(row):
            rows.append([cell and cell.strip() for cell in row])
            lines.append(line)
        line += 1 + "".join(filter(None, row)).count("\n")  # in quotes
    for row, line in zip(rows, lines, strict=True):
        if None in row:
            raise BadInput(f"{path}, line {line}: {row.index(None)} columns instead of {len(row)}")
    columns = [[None if cell in MISSING else cell for cell in column] for column in zip(*rows, strict=True)]
    header = _is_header(rows[0], columns, expected)
    names = [str(cell) if header and cell else f"column {i}" for i, cell in enumerate(rows[0], 1)]
    if header:
        columns, lines = [column[1:] for column in columns], lines[1:]
    if not lines:
        raise BadInput(f"{path} has no rows below its header")
    if len(columns) == 1 and not expected:
        names_of = ", ".join(SEPARATORS.values())
        raise BadInput(f"{path} has one column: expected several, separated by {names_of}")
    for i, name in enumerate(names):
        if name in names[:i]:
            raise BadInput(f"{path}: columns {names.index(name) + 1} and {i + 1} have the same name, {name!r:.60}")
    unnamed = [name for name, cell in zip(names, rows[0], strict=True) if header and not cell]
    table = Table(
        str(path),
        tuple(names),
        tuple(numpy.array(column, object) for column in columns),
        named=header,
        separator=SEPARATORS[separator],
        header=", ".join(names) if header else "",
        lines=numpy.array(lines),
    )
    return table.without({name for name in unnamed if is_missing(table[name]).all()})  # as after a last separator


def _is_header(first: list[str], columns: list[list[Any]], expected: Collection[str]) -> bool:
    """A header contains an expected name. Else it has no numbers, and words above a column of numbers, or only words
    that occur nowhere below."""
    if set(first) & set(expected):
        return True
    if any(map(is_number, first)):
        return False
    for name, *below in columns:
        present = [cell for cell in below if cell is not None]
        if name is not None and present and all(map(is_number, present)):
            return True
    return not any(name in below for name, *below in columns if name is not None)
