"""Rewrite what is said of speed and accuracy, and the pictures, from results/*.csv: in results/README.md everything,
in README.md a line for each operation, and in docs/scaling.md what several processes take."""

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from . import plot, results, scaling, scaling_page
from .results import Row
from .timing import COPY, OURS

README = Path(__file__).parents[1] / "README.md"
DETAILS = results.RESULTS / "README.md"
SCALING = README.parent / "docs/scaling.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
ABOUT = "Made by `make bench`, from the rows of the files beside this one."
FEW = 5  # operations, of which a picture says no more than the table
DTYPES = ("float32", "bfloat16", "float16")


def main() -> None:
    sections, summaries = [], []
    for path in sorted(set(results.RESULTS.glob("*.csv")) - {scaling.PATH}):
        rows = results.read(path)
        picture = path.with_suffix(".png")
        shown = plot.draw(rows, picture)
        sections.append(section(rows, picture.name if shown else None, path.name))
        ratios = path.with_name(f"{path.stem}-ratios.png")
        plot.draw_ratios(rows, ratios)
        summaries.append(summary(rows, ratios.relative_to(README.parent).as_posix()))
    DETAILS.write_text(f"# Results\n\n{ABOUT}\n{''.join(sections)}")
    put(README, "".join(summaries))
    if scaling.PATH.exists():
        by_machine: dict[str, list[Row]] = {}
        for row in results.read(scaling.PATH):
            by_machine.setdefault(row["machine"], []).append(row)
        put(SCALING, "".join(scaling_page.section(rows, table) for rows in by_machine.values()))


def put(path: Path, written: str) -> None:
    """In the place of what was written there before."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{path.name} needs the lines {BEGIN} and {END} once each, around what this writes")
    before, rest = text.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{written}{END}{rest.split(END)[1]}")


def summary(rows: list[Row], picture: str) -> str:
    ratios = plot.ratios_of(rows)
    body = (
        [
            name,
            str(len(values)),
            *(judged(f"{x:.2f}", round(x, 2) < 1) for x in (min(values), median(values), max(values))),
        ]
        for name, values in ratios.items()
    )
    return f"""
### {rows[0]["machine"]}

{f"![How many times as fast as the best rival]({picture})" if len(ratios) > FEW else ""}

{table(["times as fast as the best rival", "cases", "least", "median", "most"], body)}
"""


def section(rows: list[Row], picture: str | None, source: str) -> str:
    """Everything measured on one machine."""
    timed = [row for row in rows if row["median_us"]]
    accurate = [row for row in rows if row["max_error"]]
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    versions, commits = (", ".join(dict.fromkeys(row[column] for row in rows)) for column in ("torch", "commit"))
    details = "".join(times(benchmark, timed) for benchmark in benchmarks)
    tables = "\n".join(ratios(group, timed) for group in with_the_same_cases(timed))
    return f"""
### {rows[0]["machine"]}

Median time of the best rival (torch eager, torch.compile, or another that is named below) over that of torchnotes:
above 1 torchnotes is faster, in **bold** it is slower. float32 but where it says otherwise. torch {versions}; commits
{commits}; `{source}`.

{tables}
{picture_of(picture)}{errors(accurate)}
<details>
<summary>Times and memory, case by case</summary>
{details}
Time in µs, median (20th to 80th percentile). Copy: the bytes per second of torchnotes over those of `Tensor.copy_` at
the same size. Peak: the most that a call of each of them allocates at a time, and in parentheses what autograd keeps
for backward. Fresh: every result comes in new pages, as glibc has it above 32 MiB; warm: results come in recycled
memory.
</details>
"""


def picture_of(picture: str | None) -> str:
    return f"![Speed of forward+backward relative to torch eager]({picture})\n\n" if picture else ""


def with_the_same_cases(rows: list[Row]) -> list[list[str]]:
    """The benchmarks, those together that one table can hold."""
    works: dict[str, dict[tuple[str, str], None]] = {}
    for row in rows:
        works.setdefault(row["benchmark"], {})[work(row)] = None
    groups: dict[tuple, list[str]] = {}
    for benchmark, kinds in works.items():
        groups.setdefault(tuple(kinds), []).append(benchmark)
    return list(groups.values())


def ratios(benchmarks: list[str], rows: list[Row]) -> str:
    """A table of benchmarks with the same cases."""
    ours = {(row["benchmark"], *work(row)): row for row in rows if row["contender"] == OURS}
    kinds = dict.fromkeys(work(row) for row in rows if row["benchmark"] == benchmarks[0])

    def cell(benchmark: str, kind: tuple[str, str]) -> str:
        key = (benchmark, *kind)
        row = ours[key]
        return judged(f"{float(row['ratio_to_best_rival']):.2f}", loses(row))

    body = ([kind[0], count(kind[1]), *(cell(benchmark, kind) for benchmark in benchmarks)] for kind in kinds)
    return table(["case", "elements", *benchmarks], body)


def errors(rows: list[Row]) -> str:
    """Nothing where none was measured."""
    if not rows:
        return ""
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    found = {(row["case"], row["dtype"], row["benchmark"], row["contender"]): float(row["max_error"]) for row in rows}

    def cell(case: str, dtype: str, benchmark: str) -> str:
        ours, eager = (found.get((case, dtype, benchmark, contender)) for contender in (OURS, "eager"))
        return "" if ours is None or eager is None else judged(f"{ours:.3g} / {eager:.3g}", ours > eager)

    body = (
        [case.removeprefix("accuracy "), dtype, *(cell(case, dtype, benchmark) for benchmark in benchmarks)]
        for case in dict.fromkeys(row["case"] for row in rows)
        for dtype in DTYPES
    )
    return f"""\
Largest error against float64, torchnotes / torch eager, **bold** where torchnotes errs more. Outputs in ulp, gradients
in ulp of 1. Elementwise, inputs are 0, ±1e-30, ±88, ±1e4 and normal points of standard deviation 0.001 to 100; else
rows of 1000 logits of standard deviation 0.001 to 2500, and rows of -inf but for one. A logarithm next to 0 has few
digits in either.

{table(["", "dtype", *benchmarks], body)}"""


def times(benchmark: str, rows: list[Row]) -> str:
    rows = [row for row in rows if row["benchmark"] == benchmark]
    contenders = list(dict.fromkeys(row["contender"] for row in rows if row["contender"] != COPY))
    by_work: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        by_work.setdefault(work(row), {})[row["contender"]] = row

    def line(kind: tuple[str, str], of: dict[str, Row]) -> list[str]:
        ours = of[OURS]
        return [
            kind[0],
            f"{count(kind[1])} {ours['regime']}",
            *(duration(of[contender]) if contender in of else "" for contender in contenders),
            judged(f"{float(ours['ratio_to_best_rival']):.2f}", loses(ours)),
            f"{float(ours['copy_fraction']):.2f}",
            " / ".join(memory(of[contender]) for contender in contenders if contender in of),
        ]

    header = ["case", "elements", *contenders, "ratio", "copy", "peak (kept)"]
    return f"\n#### {benchmark}\n\n{table(header, (line(kind, of) for kind, of in by_work.items()))}"


def table(header: list[str], body: Iterable[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def work(row: Row) -> tuple[str, str]:
    return row["case"], row["size"]


def loses(row: Row) -> bool:
    return round(float(row["ratio_to_best_rival"]), 2) < 1


def judged(text: str, loss: bool) -> str:
    return f"**{text}**" if loss else text


def count(size: str) -> str:
    return re.sub(r"000$", "k", re.sub(r"000000$", "M", size))


def duration(row: Row) -> str:
    median, p20, p80 = (float(row[column]) for column in ("median_us", "p20_us", "p80_us"))
    digits = 0 if median >= 100 else 1
    return f"{median:,.{digits}f} ({p20:,.{digits}f} to {p80:,.{digits}f})"


def memory(row: Row) -> str:
    return f"{volume(int(row['peak_bytes']))} ({volume(int(row['kept_bytes']))})"


def volume(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1e3:.3g} kB"


if __name__ == "__main__":
    main()
