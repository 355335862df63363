"""The data of a classifier: rows of numbers, each with a class."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._bad_input import BadInput, extra, one_line
from .npz import read_npz

DIGITS = "digits"  # scikit-learn's: 1797 images of 8 x 8 pixels
X_NAMES, Y_NAMES = ("x", "X", "data"), ("y", "Y", "target", "labels")
MIN_ROWS = 20  # 3 of them for validation and 3 for testing
MAX_CLASSES = 1000  # if there are more, the column is probably not a class

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Rows:
    """x: float64, one row per sample. y: the index of each sample's class in `classes`, or None."""

    x: Tensor
    y: Tensor | None
    classes: tuple[str, ...]
    source: str

    def digest(self) -> str:
        """A hash of labeled data."""
        assert self.y is not None
        digest = hashlib.blake2b(repr((self.x.shape, self.classes)).encode(), digest_size=16)
        for part in (self.x, self.y):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()


class Split(NamedTuple):
    train: Pair
    validation: Pair
    test: Pair


def load(path: Path | None, features: int | None = None, classes: tuple[str, ...] | None = None) -> Rows:
    """The rows of a file, or the digits.

    `features` and `classes` are those of an existing model. With them the rows need not have classes.
    """
    labels: list[str] | None
    if path is None:
        digits = extra("sklearn.datasets").load_digits()
        x, labels, source = torch.from_numpy(digits.data), [str(label) for label in digits.target], DIGITS
    elif path.suffix.lower() in (".csv", ".npz"):
        x, labels = _read_csv(path, features) if path.suffix.lower() == ".csv" else _read_npz(path)
        source = path.name
    else:
        raise BadInput(f"{path}: the name of a data file must end in .csv or .npz")
    if x.dim() != 2 or 0 in x.shape:
        raise BadInput(f"{path}: x must be a table with rows and columns, but has shape {tuple(x.shape)}")
    if features is not None and x.shape[1] != features:
        raise BadInput(f"{path} has {x.shape[1]} features, but the model expects {features}")
    if len(bad := (~x.isfinite()).nonzero()):
        row, column = bad[0].tolist()
        first = f"{x[row, column].item()} in row {row + 1}, column {column + 1}"
        raise BadInput(f"{path}: {len(bad)} of the numbers are not finite, first {first}")
    if labels is None:
        if classes is None:
            raise BadInput(f"{path} has no classes: an array called {' or '.join(Y_NAMES)}")
        return Rows(x, None, classes, source)
    _check_labels(labels, path)
    if classes is None:
        classes = tuple(sorted(set(labels), key=_sort_key))
        if len(labels) >= MIN_ROWS and len(classes) > min(MAX_CLASSES, len(labels) // 2):
            raise BadInput(f"{path}: {len(classes)} classes in {len(labels)} rows: the labels are not classes")
    numbers = {name: number for number, name in enumerate(classes)}
    if unknown := sorted(set(labels) - set(numbers)):
        raise BadInput(f"{path}: the model does not know the class {unknown[0]!r:.60}")
    return Rows(x, torch.tensor([numbers[label] for label in labels]), classes, source)


def split(rows: Rows, seed: int) -> Split:
    """70, 15 and 15 % of the rows, in a random order that the seed determines."""
    n = len(rows.x)
    if n < MIN_ROWS:
        raise BadInput(f"{rows.source}: at least {MIN_ROWS} rows are required, not {n}")
    if len(rows.classes) < 2:
        raise BadInput(f"{rows.source}: every row is of class {rows.classes[0]!r:.60}")
    assert rows.y is not None
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    parts = order.tensor_split((round(0.7 * n), round(0.85 * n)))
    return Split(*((rows.x[part], rows.y[part]) for part in parts))


def _check_labels(labels: list[str], path: Path | None) -> None:
    if "" in labels:
        raise BadInput(f"{path}: row {labels.index('') + 1} has no class")
    fraction = next((label for label in labels if _is_number(label) and not _is_integer(label)), None)
    if fraction is not None and all(map(_is_number, labels)):
        raise BadInput(
            f"{path}: the targets are floating-point numbers, such as {fraction:.60}, but regression is not supported: "
            "classes are integers or words"
        )


def _read_npz(path: Path) -> tuple[Tensor, list[str] | None]:
    numpy = extra("numpy")
    x, y = read_npz(path, X_NAMES, Y_NAMES)
    if x.dtype.kind not in "fiub":
        raise BadInput(f"{path}: x must be real numbers, not {x.dtype}")
    x = torch.from_numpy(numpy.ascontiguousarray(x, dtype=numpy.float64))
    x = x.flatten(1) if x.dim() > 2 else x
    if y is None:
        return x, None
    if y.shape != (len(x),):
        raise BadInput(f"{path}: y has shape {y.shape}, but x has {len(x)} rows")
    if y.dtype.kind not in "iubUf":
        raise BadInput(f"{path}: y must be classes (integers or words), not {y.dtype}")
    return x, [str(label) for label in y.tolist()]


def _read_csv(path: Path, features: int | None) -> tuple[Tensor, list[str] | None]:
    """Reads numbers, with the class in the last column. A first line without numbers is a header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(i, line) for i, line in enumerate(csv.reader(file, strict=True), 1) if any(map(str.strip, line))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {one_line(error)}") from error
    if lines and not any(map(_is_number, lines[0][1][:-1] or lines[0][1])):
        lines = lines[1:]
    if not lines:
        raise BadInput(f"{path} has no rows")
    width = len(lines[0][1])
    labeled = width != features
    if labeled and width == 1:
        raise BadInput(f"{path} has one column: expected numbers and the class in the last column, separated by commas")
    for number, line in lines:
        if len(line) != width:
            raise BadInput(f"{path}, line {number}: {len(line)} columns instead of {width}")
        for text in line[: width - labeled]:
            if not _is_number(text):
                raise BadInput(f"{path}, line {number}: {text!r:.60} is not a number")
    x = torch.tensor([[float(text) for text in line[: width - labeled]] for _, line in lines], dtype=torch.float64)
    return x, [line[-1].strip() for _, line in lines] if labeled else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_integer(text: str) -> bool:
    """Whether the text is an integer of any length. int() is limited to a few thousand digits."""
    return _is_number(text) and text.strip().lstrip("+-").replace("_", "").isdecimal()


def _sort_key(name: str) -> tuple[bool, float, str]:
    """Sorts integers by value, before words."""
    return (False, float(name), name) if _is_integer(name) else (True, 0, name)
