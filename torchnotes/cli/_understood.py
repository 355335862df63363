"""What `train` has understood of a table, before it starts."""

import textwrap

from ..classifier.data import Rows, Split
from ..classifier.features import CATEGORY, DATE, NUMBER, constant, counts_rows, is_integer
from ..classifier.tables import DIGITS, is_missing
from ..classifier.tasks import Classes, Quantiles, quantity

WIDTH = 10  # of the first column
LISTED = 12  # names of columns or classes


def understood(rows: Rows, parts: Split) -> str:
    """One fact per line."""
    facts = _file(rows) | _target(rows) | _features(rows)
    facts["split"] = (
        f"{len(parts.train)} training rows, {len(parts.validation)} validation rows, {len(parts.test)} test rows"
    )
    text = "\n".join(
        textwrap.fill(f"{name:<{WIDTH}}{fact}", 110, subsequent_indent=" " * WIDTH, break_on_hyphens=False)
        for name, fact in facts.items()
    )
    count = len(rows.features.features)
    return f"{rows.source}: {len(rows.x):,} rows, {count:,} feature{'s' if count > 1 else ''}\n{text}"


def listed(names: list[str]) -> str:
    shown = ", ".join(f"{name:.40}" for name in names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


def _file(rows: Rows) -> dict[str, str]:
    table = rows.table
    facts = {}
    if table.separator:
        facts["columns"] = f"separated by {table.separator}"
    if table.header:
        facts["header"] = f"the first line was skipped: {listed(list(table.names))}"
    elif table.separator:
        facts["header"] = "none; the columns are called column 1, column 2, ..."
    return facts


def _target(rows: Rows) -> dict[str, str]:
    task, y, table = rows.task, rows.y, rows.table
    assert y is not None
    facts = {}
    if isinstance(task, Classes):
        counts = y.bincount(minlength=len(task.classes)).tolist()
        classes = [f"{name} ({count:,})" for name, count in zip(task.classes, counts, strict=True)]
        facts["target"] = f"{rows.features.target}: {len(classes)} classes"
        if all(map(is_integer, task.classes)) and table.source != DIGITS:
            facts["target"] += f"; --task regression for numbers from {task.classes[0]} to {task.classes[-1]}"
        facts["classes"] = listed(classes)
    else:
        loss = (
            f"pinball loss for the quantiles {', '.join(map(str, task.quantiles))}"
            if isinstance(task, Quantiles)
            else "squared loss"
        )
        span = f"numbers from {quantity(y.min().item())} to {quantity(y.max().item())}"
        facts["target"] = f"{rows.features.target}: {span}, regression with {loss}"
        if (y % 1 == 0).all():
            facts["target"] += "; --task classification for classes"
    if rows.dropped:
        facts["dropped"] = f"{rows.dropped:,} rows without a target"
    return facts


def _features(rows: Rows) -> dict[str, str]:
    features = list(rows.features)
    if rows.table.source == DIGITS:
        return {"features": "images of 8 x 8 pixels"}
    facts = {}
    kinds = []
    for kind, name in ((NUMBER, "numeric"), (CATEGORY, "categorical"), (DATE, "as days since 1970")):
        found = [feature for feature in features if feature.kind == kind]
        if found and kind == CATEGORY:
            kinds.append(f"{len(found)} {name}: {listed([f'{f.name} ({len(f.categories)})' for f in found])}")
        elif found:
            kinds.append(f"{len(found)} {name}: {listed([f.name for f in found])}")
    facts["features"] = "; ".join(kinds)
    counts = {feature.name: int(is_missing(rows.table[feature.name]).sum()) for feature in features}
    missing = [f"{name} ({count:,})" for name, count in counts.items() if count]
    if missing:
        facts["missing"] = listed(missing)
    if unvaried := [feature.name for feature in features if constant(rows.table, feature.name)]:
        facts["constant"] = listed(unvaried)
    numbers = [feature.name for feature in features if feature.kind == NUMBER]
    if counting := [name for name in numbers if counts_rows(rows.table, name)]:
        facts["counting"] = f"{listed(counting)}; --exclude leaves out what only numbers the rows"
    if rows.left_out:
        facts["left out"] = listed([f"{name} ({reason})" for name, reason in rows.left_out.items()])
    return facts
