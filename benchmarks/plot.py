"""Figures of a machine's results: every case compared with the best alternative, and speed over size."""

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .results import Row
from .timing import COPY, OUR_VARIANTS, OURS

CASE = "forward+backward"
STYLES: dict[str, dict[str, Any]] = {
    OURS: {"color": "#0072b2", "marker": "o", "linewidth": 2.0},
    "compile": {"color": "#d55e00", "marker": "s", "linewidth": 1.3},
    "eager": {"color": "#777777", "marker": None, "linewidth": 1.3},
}


def draw(rows: list[Row], path: Path) -> bool:
    """Returns whether there is anything to draw."""
    rows = [row for row in rows if row["case"] == CASE]
    if not rows:
        return False
    benchmarks = list(dict.fromkeys(row["operation"] for row in rows))
    figure = Figure(figsize=(3.1 * len(benchmarks), 3.3), layout="constrained")
    panels = figure.subplots(1, len(benchmarks), sharex=True, sharey=True, squeeze=False)[0]
    for axes, benchmark in zip(panels, benchmarks, strict=True):
        draw_panel(axes, benchmark, [row for row in rows if row["operation"] == benchmark])
    panels[0].set_ylabel("speed relative to torch eager")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"{CASE}, float32, {rows[0]['machine']}, torch {rows[0]['torch']}", fontsize=11)
    figure.savefig(path, dpi=150)
    return True


def draw_ratios(rows: list[Row], path: Path) -> None:
    """Draws one row per operation with one point per case and size. To the right of 1 torchnotes is faster."""
    ratios = ratios_of(rows)
    names = sorted(ratios, key=lambda name: median(ratios[name]))
    figure = Figure(figsize=(8, 0.9 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    for height, name in enumerate(names):
        values = ratios[name]
        colors = [STYLES[OURS if round(value, 2) >= 1 else "compile"]["color"] for value in values]
        axes.scatter(values, [height] * len(values), s=16, c=colors, alpha=0.6, linewidths=0)
        axes.plot(median(values), height, "|", markersize=13, markeredgewidth=2, color="black")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set(xscale="log", title=f"{rows[0]['machine']}, torch {rows[0]['torch']}")
    axes.set_xlabel("times as fast as the best rival, case by case and in the median")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def ratios_of(rows: list[Row]) -> dict[str, list[float]]:
    """The ratios of each benchmark's cases that have contenders other than torchnotes."""
    foreign = {work(row) for row in rows if row["contender"] not in (OURS, COPY, *OUR_VARIANTS)}
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row.get("median_us") and row["contender"] == OURS and work(row) in foreign:
            ratios.setdefault(row["operation"], []).append(float(row["ratio_to_best_rival"]))
    return ratios


def work(row: Row) -> tuple:
    return row["operation"], row["case"], row["size"]


def draw_panel(axes: Axes, benchmark: str, rows: list[Row]) -> None:
    times = {(row["contender"], int(row["size"])): float(row["median_us"]) for row in rows}
    sizes = sorted({size for _, size in times})
    for contender, style in STYLES.items():
        axes.plot(sizes, [times["eager", size] / times[contender, size] for size in sizes], label=contender, **style)
    fresh = [int(row["size"]) for row in rows if row["regime"] == "fresh"]
    if fresh:
        axes.axvspan(min(fresh), max(fresh), color="#f0e442", alpha=0.2, linewidth=0, label="results in new pages")
    axes.set(title=benchmark, xlabel="elements", xscale="log", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
