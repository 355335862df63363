"""The rows that a network learns from, with their targets."""

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._bad_input import BadInput
from . import tables
from .features import CATEGORY, DATE, Features, is_integer, kind_of, learn, numbers, quoted, sort_key
from .tables import Table, is_missing, is_number
from .tasks import QUANTILES, Classes, Numbers, Quantiles, Task

MIN_ROWS = 20  # 3 of them for validation and 3 for testing
MAX_CLASSES = 1000  # if there are more words, the column is probably not a class
MAX_INTEGERS = 30  # if there are more integers, they are probably quantities

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Wish:
    """What is to be learned, as far as the user has said so."""

    target: str | None = None  # the last column by default
    task: str | None = None  # "classification" or "regression"
    loss: str | None = None  # of regression: "squared" or "pinball"
    quantiles: Sequence[float] | None = None
    exclude: Collection[str] = ()


@dataclass(frozen=True)
class Rows:
    """x: float64, one row per sample. y: the number of the class, or the target as float64, or None."""

    x: Tensor
    y: Tensor | None
    task: Task
    features: Features
    table: Table
    left_out: dict[str, str] = field(default_factory=dict)
    dropped: int = 0  # rows without a target

    @property
    def source(self) -> str:
        return Path(self.table.source).name

    def digest(self) -> str:
        """A hash of labeled data."""
        assert self.y is not None
        digest = hashlib.blake2b(repr((self.x.shape, self.task, self.features)).encode(), digest_size=16)
        for part in (self.x, self.y):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()


class Split(NamedTuple):
    """The numbers of the rows."""

    train: Tensor
    validation: Tensor
    test: Tensor


def load(path: Path | None, wish: Wish = Wish(), seed: int = 0) -> Rows:
    """The rows of a file, or the digits. The categories are those of the training rows, which the seed determines."""
    table = tables.digits() if path is None else tables.read(path, {*filter(None, [wish.target]), *wish.exclude})
    target = table.target or table.names[-1] if wish.target is None else wish.target
    for name in (target, *wish.exclude):
        if name not in table.names:
            raise BadInput(f"{table.source} has no column {name!r:.60}; it has {quoted(table.names)}")
    if target in wish.exclude:
        raise BadInput(f"--exclude {target}: this is the target")
    if table.source.endswith(tables.ARRAYS) and table.target is None and wish.target is None:
        raise BadInput(f"{path} has no classes or numbers to learn: an array called {' or '.join(tables.Y_NAMES)}")
    unlabeled = is_missing(table[target])
    if unlabeled.all():
        raise BadInput(f"{table.source}: column {target!r:.60}, the target, has no values")
    table = table.rows(~unlabeled)
    training = split(len(table), seed).train
    task, y = _task(table, target, wish, training)
    features, left_out = learn(table, target, wish.exclude, training)
    rows = Rows(features.inputs(table), y, task, features, table, left_out, int(unlabeled.sum()))
    _check(rows)
    return rows


def load_like(path: Path | None, features: Features, task: Task) -> tuple[Rows, Tensor]:
    """The rows for a network that has learned, and which of them have a target. y is only that of these."""
    table = tables.digits() if path is None else tables.read(path, features.layout if features.named else [])
    table = features.match(table)
    x = features.inputs(table)
    if features.target not in table.names:
        return Rows(x, None, task, features, table), torch.zeros(len(x), dtype=torch.bool)
    labeled = torch.from_numpy(~is_missing(table[features.target]))
    known = table.rows(labeled.numpy())
    if not isinstance(task, Classes):
        y = torch.tensor(numbers(known, features.target))
    else:
        y = _numbers_of_classes(known, features.target, task.classes)
    return Rows(x, y, task, features, table), labeled


def split(n: int, seed: int) -> Split:
    """70, 15 and 15 % of n rows, in a random order that the seed determines."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return Split(*order.tensor_split((round(0.7 * n), round(0.85 * n))))


def _task(table: Table, target: str, wish: Wish, training: Tensor) -> tuple[Task, Tensor]:
    kind = kind_of(table, target)
    if kind == DATE:
        raise BadInput(f"{table.source}: the target {target!r:.60} is a date; expected classes or numbers")
    names = [class_name(text) for text in table[target]] if table[target].dtype == object else None
    wants_numbers = wish.task == "regression" or bool(wish.loss or wish.quantiles)
    if wish.task == "classification" and (wish.loss or wish.quantiles):
        raise BadInput("--loss and --quantiles require --task regression")
    if wish.loss == "squared" and wish.quantiles:
        raise BadInput("--quantiles requires --loss pinball")
    if wish.task == "classification" or (not wants_numbers and (kind == CATEGORY or _are_classes(names))):
        names = names or [class_name(str(value)) for value in table[target].tolist()]
        classes = tuple(sorted(set(names), key=sort_key))
        return Classes(classes), _numbers_of_classes(table, target, classes)
    y = torch.tensor(numbers(table, target))  # raises an error at the first word
    mean, scale = y[training].mean().item(), y[training].std(correction=0).item()
    if not math.isfinite(scale):
        raise BadInput(f"{table.source}: the numbers of the target {target!r:.60} are too large")
    if wish.loss == "pinball" or wish.quantiles:
        return Quantiles(mean, scale, tuple(sorted(set(wish.quantiles or QUANTILES)))), y
    return Numbers(mean, scale), y


def _are_classes(names: list[str] | None) -> bool:
    """Few whole numbers, each of which occurs twice on average."""
    if names is None or not all(map(is_integer, names)):
        return False
    return len(set(names)) <= (min(MAX_INTEGERS, len(names) // 2) if len(names) >= MIN_ROWS else MAX_INTEGERS)


def _check(rows: Rows) -> None:
    n, source, target = len(rows.x), rows.table.source, rows.features.target
    assert rows.y is not None
    if n < MIN_ROWS:
        raise BadInput(f"{source}: at least {MIN_ROWS} rows with a target are required, not {n}")
    if isinstance(rows.task, Classes):
        classes = rows.task.classes
        if len(classes) > min(MAX_CLASSES, n // 2):
            raise BadInput(
                f"{source}: {len(classes)} classes in {n} rows: {target!r:.60} is not a column of classes; choose "
                "another --target"
            )
        if len(classes) < 2:
            raise BadInput(f"{source}: every row is of class {classes[0]!r:.60}")
    elif (rows.y[split(n, 0).train] == rows.y[0]).all():
        raise BadInput(f"{source}: the target {target!r:.60} is {rows.y[0].item():g} in every row")


def _numbers_of_classes(table: Table, target: str, classes: tuple[str, ...]) -> Tensor:
    numbers = {name: number for number, name in enumerate(classes)}
    names = [class_name(str(text)) for text in table[target]]
    if unknown := sorted(set(names) - set(numbers)):
        raise BadInput(f"{table.source}: the model does not know the class {unknown[0]!r:.60}")
    return torch.tensor([numbers[name] for name in names], dtype=torch.int64)


def class_name(text: str) -> str:
    """Whole numbers without a fraction: a column of 0 and 1 with missing values is often saved as 0.0 and 1.0."""
    if is_integer(text) or not is_number(text) or not float(text).is_integer():
        return text
    return str(int(float(text)))
