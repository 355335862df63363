"""Rewrites figures and tables in the documents from results/*.csv.

results/README.md has all results, README.md a line for each operation of the sweep, and docs/howto/processes.md the
cost of several processes.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from . import instructions, plot, results, scaling, scaling_page, sweep, sweep_page
from .results import Row
from .timing import COPY, OURS

README = Path(__file__).parents[1] / "README.md"
DETAILS = results.RESULTS / "README.md"
SCALING = README.parent / "docs/howto/processes.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
ABOUT = "Written by `make bench` from the CSV files in this folder."
DTYPES = ("float32", "bfloat16", "float16")


def main() -> None:
    sections = []
    for path in machines():
        rows = results.read(path)
        ratios = path.with_name(f"{path.stem}-ratios.png")
        plot.draw_ratios(rows, ratios)
        speed = path.with_suffix(".png")
        pictures = [ratios.name, speed.name] if plot.draw(rows, speed) else [ratios.name]
        sections.append(section(rows, pictures, path.name))
    swept = results.read(sweep.PATH)
    sweep_page.draw(swept, sweep.PATH.with_suffix(".png"))
    counts = results.read(instructions.PATH)
    sections.insert(0, f"\n{sweep_page.section(swept, counts, table, sweep.PATH.with_suffix('.png').name)}")
    DETAILS.write_text(f"# Results\n\n{ABOUT}\n{''.join(sections)}")
    put(README, summary())
    if scaling.PATH.exists():
        by_machine: dict[str, list[Row]] = {}
        for row in results.read(scaling.PATH):
            by_machine.setdefault(row["machine"], []).append(row)
        put(SCALING, "".join(scaling_page.section(rows, table) for rows in by_machine.values()))


def machines() -> list[Path]:
    """The files of results, one per machine."""
    others = {scaling.PATH, sweep.PATH, instructions.PATH}
    others |= {results.RESULTS / name for name in ("estimators.csv", "watch.csv")}
    return sorted(set(results.RESULTS.glob("*.csv")) - others)


def put(path: Path, written: str) -> None:
    """Replaces the text between the markers."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{path.name} must contain {BEGIN} and {END} exactly once")
    before, rest = text.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{written}{END}{rest.split(END)[1]}")


def summary() -> str:
    """What the README shows of the sweep."""
    return sweep_page.summary(sweep_page.with_most_threads(results.read(sweep.PATH)), table)


def section(rows: list[Row], pictures: list[str], source: str) -> str:
    """All results of one machine."""
    timed = [row for row in rows if row["median_us"]]
    accurate = [row for row in rows if row["max_error"]]
    benchmarks = list(dict.fromkeys(row["operation"] for row in rows))
    versions, commits = (", ".join(dict.fromkeys(row[column] for row in rows)) for column in ("torch", "commit"))
    details = "".join(times(benchmark, timed) for benchmark in benchmarks)
    tables = "\n".join(ratios(group, timed) for group in with_the_same_cases(timed))
    return f"""
### {rows[0]["machine"]}

The median time of the best rival (torch eager, torch.compile, or another named below) divided by that of torchnotes:
above 1 torchnotes is faster, and **bold** marks where it is slower. float32 unless stated otherwise. torch {versions};
commits {commits}; `{source}`.

{tables}
{"".join(map(picture, pictures))}{errors(accurate)}
<details>
<summary>Times and memory, case by case</summary>
{details}
Times are in µs: median (20th to 80th percentile). Copy: the bandwidth of torchnotes divided by that of `Tensor.copy_`
at the same size. Peak: the most memory that one call allocates at a time, and in parentheses what autograd saves for
the backward pass. Fresh: every result lies in newly mapped pages, as with glibc above 32 MiB; warm: memory is reused.
</details>
"""


def picture(name: str) -> str:
    rival = "the best rival" if name.endswith("-ratios.png") else "torch eager, by size"
    return f"![Speed relative to {rival}]({name})\n\n"


def with_the_same_cases(rows: list[Row]) -> list[list[str]]:
    """Groups benchmarks that have the same cases and share a table."""
    works: dict[str, dict[tuple[str, str], None]] = {}
    for row in rows:
        works.setdefault(row["operation"], {})[work(row)] = None
    groups: dict[tuple, list[str]] = {}
    for benchmark, kinds in works.items():
        groups.setdefault(tuple(kinds), []).append(benchmark)
    return list(groups.values())


def ratios(benchmarks: list[str], rows: list[Row]) -> str:
    """The table of benchmarks with the same cases."""
    ours = {(row["operation"], *work(row)): row for row in rows if row["contender"] == OURS}
    kinds = dict.fromkeys(work(row) for row in rows if row["operation"] == benchmarks[0])

    def cell(benchmark: str, kind: tuple[str, str]) -> str:
        key = (benchmark, *kind)
        row = ours[key]
        return judged(f"{float(row['ratio_to_best_rival']):.2f}", loses(row))

    body = ([kind[0], count(kind[1]), *(cell(benchmark, kind) for benchmark in benchmarks)] for kind in kinds)
    return table(["case", "elements", *benchmarks], body)


def errors(rows: list[Row]) -> str:
    if not rows:
        return ""
    benchmarks = list(dict.fromkeys(row["operation"] for row in rows))
    found = {(row["case"], row["dtype"], row["operation"], row["contender"]): float(row["max_error"]) for row in rows}

    def cell(case: str, dtype: str, benchmark: str) -> str:
        ours, eager = (found.get((case, dtype, benchmark, contender)) for contender in (OURS, "eager"))
        return "" if ours is None or eager is None else judged(f"{ours:.3g} / {eager:.3g}", ours > eager)

    body = (
        [case.removeprefix("accuracy "), dtype, *(cell(case, dtype, benchmark) for benchmark in benchmarks)]
        for case in dict.fromkeys(row["case"] for row in rows)
        for dtype in DTYPES
    )
    return f"""\
The largest error against float64, torchnotes / torch eager, in **bold** where that of torchnotes is larger. Outputs are
in ulp, gradients in ulp of 1. Elementwise operations get 0, ±1e-30, ±88, ±1e4 and normal numbers with standard
deviations from 0.001 to 100, the others rows of 1000 logits with standard deviations from 0.001 to 2500, and rows that
are -inf except for one element. A logarithm close to 0 has few correct digits in both.

{table(["", "dtype", *benchmarks], body)}"""


def times(benchmark: str, rows: list[Row]) -> str:
    rows = [row for row in rows if row["operation"] == benchmark]
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
