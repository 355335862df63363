"""Presents the results of the sweep: a table for the README, the losses, how far the hardware limits, and a plot."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from matplotlib.figure import Figure

from .plot import STYLES
from .results import Row
from .sweep import LIMITED_FROM, LOSS, label, quartiles
from .timing import OURS, percentiles

Table = Callable[[list[str], Iterable[list[str]]], str]
Columns = dict[tuple[str, str, str], list[Row]]  # by machine, instruction set and number of threads

LISTED = 40  # losses in the page; the CSV file has all
SHARED_FROM = 2**16  # elements from which on every operation uses several threads


def columns(rows: Iterable[Row]) -> Columns:
    found: Columns = {}
    for row in rows:
        found.setdefault((row["machine"], row["instructions"], row["threads"]), []).append(row)
    return dict(sorted(found.items()))


def with_most_threads(rows: Iterable[Row]) -> list[Row]:
    found = columns(rows)
    most = {column[:2]: column for column in sorted(found, key=lambda column: int(column[2]))}
    return [row for column in most.values() for row in found[column]]


def title(column: tuple[str, str, str]) -> str:
    machine, instructions, threads = column
    return f"{machine}, {instructions}, {threads} thread{'' if threads == '1' else 's'}"


def by_family(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["family"], []).append(row)
    return found


def figures(rows: list[Row]) -> str:
    """Minimum, lower quartile and median, with losses in bold."""
    return " / ".join(f"**{x:.2f}**" if x < LOSS else f"{x:.2f}" for x in quartiles(rows))


def summary(rows: Iterable[Row], table: Table) -> str:
    """A line per operation, those with the worst case first."""
    found = columns(rows)
    families = {column: by_family(of_column) for column, of_column in found.items()}
    worst: dict[str, float] = {}
    for of_column in families.values():
        for family, cases in of_column.items():
            worst[family] = min(worst.get(family, math.inf), quartiles(cases)[0])
    header = ["least / lower quartile / median", *map(title, found)]
    body = (
        [family, *(figures(families[column][family]) if family in families[column] else "" for column in found)]
        for family in sorted(worst, key=worst.__getitem__)
    )
    return table(header, body)


def section(rows: list[Row], counts: list[Row], table: Table, plot: str) -> str:
    """What is slower than torch, the plot, and how far the hardware limits. `counts`: of instructions"""
    parts = []
    for column, of_column in columns(rows).items():
        losses = sorted((row for row in of_column if float(row["ratio"]) < LOSS), key=lambda row: float(row["ratio"]))
        listed = "".join(
            f"- {float(row['ratio']):.2f}: {row['family']}, {label(row)} ({row['rival']})\n" for row in losses[:LISTED]
        )
        parts.append(
            f"### {title(column)}\n\n{len(losses)} of {len(of_column)} cases are slower than the fastest rival"
            f"{':' if losses else '.'}\n\n{listed}\n{limits(of_column, table)}"
        )
    return (
        "## The sweep\n\nEvery operation over its shapes, layouts, types and modes (`benchmarks/families.py`): the\n"
        "time of the fastest rival, torch eager or torch.compile, divided by that of torchnotes.\n\n"
        f"{summary(rows, table)}\n![Ratio against size]({plot})\n\n{''.join(parts)}{threads(rows, table)}"
        f"{instructions(counts, table)}"
    )


def threads(rows: Iterable[Row], table: Table) -> str:
    """How many times as fast several threads are as one."""
    times: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in rows:
        case = tuple(row[name] for name in ("instructions", "machine", "family", "case", "dtype", "elements"))
        times.setdefault(case, {})[int(row["threads"])] = row
    gains: dict[tuple[str, int, str], list[tuple[int, float, float]]] = {}
    for (sets, _, family, *_, elements), found in times.items():
        for count in found.keys() - {1} if 1 in found else ():
            if found[1]["rival"] != found[count]["rival"]:
                continue  # torch.compile was not measured with both
            ours, rivals = (float(found[1][name]) / float(found[count][name]) for name in ("torchnotes_us", "rival_us"))
            gains.setdefault((sets, count, family), []).append((int(elements), ours, rivals))
    if not gains:
        return ""
    body = []
    for (sets, count, family), of_family in sorted(gains.items()):
        large = [gain for elements, *gain in of_family if elements >= SHARED_FROM]
        if not large:
            continue
        ours, theirs = (percentiles(list(gain), 0.5)[0] for gain in zip(*large, strict=True))
        body.append([family, sets, str(count), f"{ours:.2f}", f"{theirs:.2f}"])
    header = ["", "instruction set", "threads", "torchnotes", "fastest rival"]
    return (
        "### Threads\n\nThe time of one thread divided by that of several: the median from "
        f"{SHARED_FROM:,} elements on.\n\n{table(header, body)}\n"
    )


def instructions(counts: Iterable[Row], table: Table) -> str:
    """Instructions per element of data in cache."""
    sets = sorted({row["instructions"] for row in counts})
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in counts:
        found.setdefault((row["operation"], row["case"]), {})[row["instructions"]] = row

    def cell(row: Row | None) -> str:
        return f"{float(row['torchnotes']):.2f} / {float(row['rival']):.2f}" if row else ""

    body = ([*case, *(cell(rows.get(name)) for name in sets)] for case, rows in found.items())
    return (
        "### Instructions\n\nWhat data in cache costs: instructions per float32 element of a call, forward and\n"
        "backward (`benchmarks/instructions.py`), torchnotes / torch eager or its fused optimizer. An instruction of\n"
        f"AVX-512 does twice the work of one of AVX2.\n\n{table(['', 'case', *sets], body)}\n"
    )


def limits(rows: Iterable[Row], table: Table) -> str:
    """The bandwidth of the largest float32 tensors, relative to a copy in the same run."""
    limited = [row for row in rows if row["copy_fraction"] and row["dtype"] == "float32"]
    if not limited:
        return ""
    body = (
        [family, f"{least:.2f}", f"{middle:.2f}"]
        for family, of_family in by_family(limited).items()
        for least, _, middle in [quartiles(of_family, "copy_fraction")]
    )
    return (
        "Bytes that a call must move, divided by its time and by the bandwidth of a copy, from "
        f"{LIMITED_FROM:,} float32\nnumbers on:\n\n{table(['', 'least', 'median'], body)}\n"
    )


def draw(rows: list[Row], path: Path) -> None:
    families = sorted(by_family(rows))
    across = 6
    figure = Figure(figsize=(2.6 * across, 1.9 * math.ceil(len(families) / across)), layout="constrained")
    panels = list(
        figure.subplots(math.ceil(len(families) / across), across, sharex=True, sharey=True, squeeze=False).flat
    )
    colors = [STYLES["compile"]["color"], STYLES[OURS]["color"]]
    for axes, family in zip(panels, families, strict=False):
        cases = [row for row in rows if row["family"] == family]
        ratios = [float(row["ratio"]) for row in cases]
        axes.scatter(
            [int(row["elements"]) for row in cases],
            ratios,
            s=6,
            c=[colors[ratio >= LOSS] for ratio in ratios],
            alpha=0.6,
            linewidths=0,
        )
        axes.axhline(1, color="black", linewidth=0.7)
        axes.set_title(family, fontsize=9)
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.25)
    for axes in panels[len(families) :]:
        axes.set_visible(False)
    figure.supxlabel("elements")
    figure.supylabel("times as fast as the fastest rival")
    figure.savefig(path, dpi=110)
