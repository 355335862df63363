"""Turns the columns of a table into the inputs of a network."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._bad_input import BadInput, extra
from .tables import Table, is_missing, is_number

MAX_CATEGORIES = 100
NUMBER, DATE, CATEGORY = "number", "date", "category"
DATES = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(\D.*)?")


@dataclass(frozen=True)
class Feature:
    """A column. Numbers and dates, in days since 1970, are one input, or two if values are missing: the second is 1 for
    these. Words are one input per category, which is 1 for the words of that category.

    NaN stands for missing values and for words of no category. A network sees the mean instead.
    """

    name: str
    kind: str
    missing: bool  # whether a value is missing in the training rows; for words it is a category of its own
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return (len(self.categories) if self.kind == CATEGORY else 1) + self.missing

    def inputs(self, table: Table) -> Tensor:
        column = table[self.name]
        missing = torch.from_numpy(is_missing(column))
        if self.kind != CATEGORY:
            values = torch.tensor((days if self.kind == DATE else numbers)(table, self.name))
            return torch.stack((values, missing.double()), 1) if self.missing else values[:, None]
        places: dict[Any, int] = {category: i for i, category in enumerate((*self.categories, None)[: self.width])}
        unknown = len(places)
        found = torch.tensor([places.get(text, unknown) for text in column])
        inputs = torch.nn.functional.one_hot(found, unknown + 1)[:, :unknown].double()
        return inputs.masked_fill((found == unknown)[:, None], torch.nan)


@dataclass(frozen=True)
class Features:
    """The columns that a network uses, and where they are in a table without names."""

    features: tuple[Feature, ...]
    layout: tuple[str, ...]  # the names of all columns of the table
    target: str
    named: bool  # whether the names are the file's

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.features)

    @property
    def continuous(self) -> Tensor:
        """Whether each input is a number, and not 0 or 1 for a category or a missing value."""
        of_feature = ([feature.kind != CATEGORY] + [False] * (feature.width - 1) for feature in self)
        return torch.tensor([continuous for inputs in of_feature for continuous in inputs])

    def inputs(self, table: Table) -> Tensor:
        return torch.cat([feature.inputs(table) for feature in self], 1)

    def unknown(self, x: Tensor) -> dict[str, int]:
        """The columns of words with words of no category, and in how many rows of the inputs."""
        blocks = zip(self, x.split([feature.width for feature in self], 1), strict=True)
        counts = {f.name: int(block[:, 0].isnan().sum()) for f, block in blocks if f.kind == CATEGORY}
        return {name: count for name, count in counts.items() if count}

    def match(self, table: Table) -> Table:
        """The same table with the names that the network knows: by name, or by position if one of the files has none.
        The target may be missing."""
        if table.named and self.named:
            missing = [feature.name for feature in self if feature.name not in table.names]
            if missing:
                raise BadInput(f"{table.source} has no column {quoted(missing)}; it has {quoted(table.names)}")
            return table
        without_target = tuple(name for name in self.layout if name != self.target)
        labeled = table.target is not None or (table.lines is not None and len(table.names) == len(self.layout))
        layout = (*without_target, self.target) if table.target else self.layout if labeled else without_target
        if len(layout) != len(table.names):
            found, expected = len(table.names) - (table.target is not None), len(without_target)
            columns = "features" if table.lines is None else "columns"
            raise BadInput(f"{table.source} has {found} {columns}, but the model expects {expected} without the target")
        return replace(table, names=layout)


def learn(table: Table, target: str, excluded: Collection[str], training: Tensor) -> tuple[Features, dict[str, str]]:
    """The features, with the categories of the training rows, and the columns that were left out with the reason."""
    features, left_out = [], {}
    for name in table.names:
        if name == target:
            continue
        if name in excluded:
            left_out[name] = "excluded"
            continue
        column = table[name]
        present, known = column[~is_missing(column)], column[training.numpy()]
        missing = bool(is_missing(known).any())
        if is_missing(known).all():
            left_out[name] = "no values"
            continue
        kind = kind_of(table, name)
        if name.startswith("column ") and table.named and kind == NUMBER and counts_rows(table, name):
            left_out[name] = "the number of the row"
        elif kind != CATEGORY:
            features.append(Feature(name, kind, missing))
        elif len(present) > 10 and 2 * len(set(present)) > len(present):
            left_out[name] = "a different text in most rows"
        elif len(set(present)) > MAX_CATEGORIES:
            raise BadInput(
                f"{table.source}: column {name!r:.60} has {len(set(present))} different words, such as "
                f"{present[0]!r:.60}; at most {MAX_CATEGORIES} are supported: leave it out with --exclude"
            )
        else:
            categories = {text for text in known if text is not None}
            features.append(Feature(name, kind, missing, tuple(sorted(categories, key=sort_key))))
    if not features:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise BadInput(f"{table.source} has no column to learn from ({reasons or 'the target is the only one'})")
    return Features(tuple(features), table.names, target, table.named), left_out


def constant(table: Table, name: str) -> bool:
    column = table[name]
    present = column[~is_missing(column)]
    return len(set(present.tolist())) <= 1


def kind_of(table: Table, name: str) -> str:
    """Numbers, dates or words. Rejects columns of numbers that contain some words."""
    column = table[name]
    if column.dtype.kind == "f":
        return NUMBER
    present = column[~is_missing(column)]
    values = _parsed(table, name)[~is_missing(column)]
    bad = values != values
    if not bad.any():
        return NUMBER
    finite = values[abs(values) < torch.inf]
    fractions, many = (finite % 1 != 0).any(), len(set(finite)) > MAX_CATEGORIES
    if 2 * bad.sum() <= len(present) and (fractions or many):
        numbers(table, name)  # raises an error that names the line
    if all(map(DATES.fullmatch, present)):
        days(table, name)
        return DATE
    return CATEGORY


def numbers(table: Table, name: str) -> Any:
    """The column as float64 with NaN for missing values."""
    column = table[name]
    values = column if column.dtype.kind == "f" else _parsed(table, name)
    missing = is_missing(column)
    for row in ((values != values) & ~missing).nonzero()[0]:
        raise BadInput(
            f"{table.source}, {table.place(row)}: {column[row]!r:.60} in column {name!r:.60} is not a number"
        )
    for row in (abs(values) == torch.inf).nonzero()[0]:
        raise BadInput(f"{table.source}, {table.place(row)}: {values[row]} in column {name!r:.60} is not finite")
    return values


def _parsed(table: Table, name: str) -> Any:
    """Numbers, and NaN for other texts. In tables without separating commas, numbers may contain decimal commas."""
    numpy, column = extra("numpy"), table[name]
    texts = [text or "" for text in column]
    values = numpy.array([float(text) if is_number(text) else torch.nan for text in texts])
    if table.separator not in ("", "commas") and (values != values).any():
        points = ["" if "." in text else text.replace(",", ".") for text in texts]
        with_points = numpy.array([float(text) if is_number(text) else torch.nan for text in points])
        if not ((with_points != with_points) & ~is_missing(column)).any():
            return with_points
    return values


def days(table: Table, name: str) -> Any:
    """Days since 1970, with NaN for missing values."""
    pandas, column = extra("pandas"), table[name]
    times = pandas.to_datetime(pandas.Series(column), errors="coerce", format="ISO8601", utc=True)
    bad = times.isna().to_numpy() & ~is_missing(column)
    for row in bad.nonzero()[0]:
        raise BadInput(
            f"{table.source}, {table.place(row)}: {column[row]!r:.60} in column {name!r:.60} is not a date like "
            "2024-03-31, with or without a time: change the column or leave it out with --exclude"
        )
    day = pandas.Timedelta(days=1)
    return ((times - pandas.Timestamp(0, tz="UTC")) / day).to_numpy("float64")


def counts_rows(table: Table, name: str) -> bool:
    """Whether a column of numbers increases by 1 from row to row."""
    values = numbers(table, name)
    return len(values) > 1 and bool((values[1:] - values[:-1] == 1).all())


def is_integer(text: str) -> bool:
    """Whether the text is an integer of any length. int() is limited to a few thousand digits."""
    return is_number(text) and text.strip().lstrip("+-").replace("_", "").isdecimal()


def sort_key(name: str) -> tuple[bool, float, str]:
    """Sorts integers by value, before words."""
    return (False, float(name), name) if is_integer(name) else (True, 0, name)


def quoted(names: Collection[str], limit: int = 10) -> str:
    shown = ", ".join(f"{name!r:.60}" for name in list(names)[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
