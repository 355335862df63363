"""The data of a classifier: rows of numbers, each with a class."""

import csv
import ctypes
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._bad_input import BadInput, extra, one_line

DIGITS = "digits"  # scikit-learn's: 1797 images of 8 x 8 pixels
NAMES_OF_X, NAMES_OF_Y = ("x", "X", "data"), ("y", "Y", "target", "labels")
LEAST = 20  # rows, of which 3 are for validation and 3 for testing
CLASSES = 1000  # at most; if there are more, the column is probably not a class


@dataclass(frozen=True)
class Rows:
    """x: float64, one row per sample. y: the index of each sample's class in `classes`, or None."""

    x: Tensor
    y: Tensor | None
    classes: tuple[str, ...]
    source: str

    def digest(self) -> str:
        """A hash of the data."""
        found = hashlib.blake2b(repr((self.x.shape, self.classes)).encode(), digest_size=16)
        for part in (self.x, self.y):
            if part is not None:
                whole = part.contiguous()  # keeps the memory alive while it is read
                found.update(ctypes.string_at(whole.data_ptr(), whole.nbytes))
        return found.hexdigest()


class Split(NamedTuple):
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(path: Path | None, features: int | None = None, classes: tuple[str, ...] | None = None) -> Rows:
    """The rows of a file, or the digits.

    `features` and `classes` are those of an existing model. With them the rows need not have classes.
    """
    if path is None:
        digits = extra("sklearn.datasets", "scikit-learn").load_digits()
        x: Tensor = torch.from_numpy(digits.data)
        labels: list[str] | None = [str(label) for label in digits.target]
    elif path.suffix.lower() == ".npz":
        x, labels = _of_npz(path)
    elif path.suffix.lower() == ".csv":
        x, labels = _of_csv(path, features)
    else:
        raise BadInput(f"{path}: the name of a file with data ends in .npz or .csv")
    _check(x, path, features)
    if labels is None and classes is None:
        raise BadInput(f"{path} has no classes: an array {' or '.join(NAMES_OF_Y)}")
    _check_labels(labels or [], path)
    return _numbered(x, labels, classes, DIGITS if path is None else path.name)


def split(rows: Rows, seed: int) -> Split:
    """70, 15 and 15 % of the rows, in a random order that the seed determines."""
    n = len(rows.x)
    if n < LEAST:
        raise BadInput(f"{rows.source}: at least {LEAST} rows are needed, not {n}")
    assert rows.y is not None
    if len(rows.classes) < 2:
        raise BadInput(f"{rows.source} has rows of one class only, {rows.classes[0]!r:.60}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    parts = order.tensor_split((round(0.7 * n), round(0.85 * n)))
    train, validation, test = ((rows.x[part], rows.y[part]) for part in parts)
    return Split(train, validation, test)


def _check(x: Tensor, path: Path | None, features: int | None) -> None:
    if x.dim() != 2 or 0 in x.shape:
        raise BadInput(f"{path}: x has to be a table of numbers, with rows and columns, but has shape {tuple(x.shape)}")
    if features is not None and x.shape[1] != features:
        raise BadInput(f"{path} has {x.shape[1]} features, but the model was made for {features}")
    wrong = (~x.isfinite()).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise BadInput(
            f"{path}: {len(wrong)} of the numbers are not finite, the first in row {row + 1}, column {column + 1}: "
            f"{x[row, column].item()}"
        )


def _check_labels(labels: list[str], path: Path | None) -> None:
    if "" in labels:
        raise BadInput(f"{path}: row {labels.index('') + 1} has no class")
    fraction = next((label for label in labels if _is_number(label) and not _is_integer(label)), None)
    if fraction is not None and all(map(_is_number, labels)):
        raise BadInput(
            f"{path}: its targets are floating-point numbers, such as {fraction:.60}, and regression is not supported: "
            "classes are whole numbers or words"
        )


def _numbered(x: Tensor, labels: list[str] | None, classes: tuple[str, ...] | None, source: str) -> Rows:
    if labels is None:
        return Rows(x, None, classes or (), source)
    if classes is None:
        classes = tuple(sorted(set(labels), key=_in_order))
        if len(labels) >= LEAST and len(classes) > min(CLASSES, len(labels) // 2):
            raise BadInput(f"{source}: {len(labels)} rows of {len(classes)} classes: what should be classes are none")
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(labels) - set(numbers))
    if unknown:
        raise BadInput(f"{source}: the model does not know the class {unknown[0]!r:.60}")
    return Rows(x, torch.tensor([numbers[label] for label in labels]), classes, source)


def _of_npz(path: Path) -> tuple[Tensor, list[str] | None]:
    numpy = extra("numpy")
    try:
        with path.open("rb") as file:
            found = numpy.load(file, allow_pickle=False)
            if isinstance(found, numpy.ndarray):
                raise ValueError("it holds a single array, without a name")
            arrays = dict(found)
    except Exception as error:  # numpy passes on any exception of zipfile and of its own reader
        # numpy takes unknown files for pickles, and explains how to load one.
        why = "it is no archive of numbers" if "pickle" in str(error) else one_line(error)
        raise BadInput(f"{path} cannot be read: {why}") from error
    x, y = (next((arrays[name] for name in names if name in arrays), None) for names in (NAMES_OF_X, NAMES_OF_Y))
    if x is None:
        names = ", ".join(arrays) or "nothing"
        raise BadInput(f"{path} has {names}, but no array called {' or '.join(NAMES_OF_X)}")
    if x.dtype.kind not in "fiub":
        raise BadInput(f"{path}: x has to hold real numbers, not {x.dtype}")
    x = torch.from_numpy(numpy.ascontiguousarray(x, dtype=numpy.float64))
    x = x.flatten(1) if x.dim() > 2 else x
    if y is None:
        return x, None
    if y.shape != (len(x),):
        raise BadInput(f"{path}: y has shape {y.shape}, but x has {len(x)} rows")
    if y.dtype.kind not in "iubUf":
        raise BadInput(f"{path}: y has to hold classes: whole numbers or words, not {y.dtype}")
    return x, [str(label) for label in y.tolist()]


def _of_csv(path: Path, features: int | None) -> tuple[Tensor, list[str] | None]:
    """Reads numbers, with the class in the last column. A first line that is not numeric is a header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            found = csv.reader(file, strict=True)
            lines = [(number, line) for number, line in enumerate(found, 1) if any(map(str.strip, line))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {one_line(error)}") from error
    if lines and not any(_is_number(text) for text in lines[0][1][:-1] or lines[0][1]):
        lines = lines[1:]
    if not lines:
        raise BadInput(f"{path} has no rows")
    width = len(lines[0][1])
    labelled = width != features
    if labelled and width == 1:
        raise BadInput(f"{path} has one column: commas have to part the numbers and the class, which comes last")
    numbers, labels = [], []
    for number, line in lines:
        if len(line) != width:
            raise BadInput(f"{path}, line {number}: {len(line)} columns, where there were {width} before")
        texts = line[:-1] if labelled else line
        wrong = next((text for text in texts if not _is_number(text)), None)
        if wrong is not None:
            raise BadInput(f"{path}, line {number}: {wrong!r:.60} is not a number")
        numbers.append([float(text) for text in texts])
        labels.append(line[-1].strip())
    return torch.tensor(numbers, dtype=torch.float64).reshape(len(lines), -1), labels if labelled else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _in_order(name: str) -> tuple[bool, float, str]:
    """A sort key: numbers by value, before words."""
    return (False, float(name), name) if _is_integer(name) else (True, 0, name)


def _is_integer(text: str) -> bool:
    """Whether the text is an integer of any length. int() is limited to a few thousand digits."""
    return _is_number(text) and text.strip().lstrip("+-").replace("_", "").isdecimal()
