"""Compares every operation with torch over many shapes, and reports where it loses first.

    python -m benchmarks.sweep                    the quick mode, against torch eager: 3 minutes
    python -m benchmarks.sweep --compile          also against torch.compile, from 64k elements: 10 minutes
    python -m benchmarks.sweep --full --save      all cases, against torch eager: 15 minutes
    python -m benchmarks.sweep softmax sgd        only these operations

Rivals are timed alternately, and memory is reused (the "warm" regime of benchmarks/memory.py). A case that loses is
measured again, three times as long and with new inputs, and the second measurement counts. ATEN_CPU_CAPABILITY=avx2
selects the instruction set of both sides.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from . import memory, results, timing
from .families import ALLOWED, SweepCase, cases
from .results import Row, rounded
from .timing import COPY, OURS, Problem

LOSS = 0.97  # below this ratio a difference is not noise
COMPILED_FROM = 2**16  # elements
LIMITED_FROM = 2**23  # elements from which on the bandwidth of a copy is the limit
CHECKED_TO = 2**24  # elements; larger inputs run the same code
SAMPLE_SECONDS = 4e-4
SECONDS = 0.15  # for all samples of all contenders, if they are enough
FEWEST, MOST = 5, 21  # samples

KEY = ("family", "case", "dtype", "elements", "machine", "instructions", "threads")
FIGURES = ("torchnotes_us", "rival", "rival_us", "ratio", "gbps", "copy_fraction")
COLUMNS = (*KEY, *FIGURES, *results.ORIGIN)
PATH = results.RESULTS / "sweep.csv"


def prepared(case: SweepCase, compiled: bool) -> Problem:
    """The problem of a case, after a check of all contenders."""
    torch.manual_seed(0)
    problem = case.setup()
    chosen = {name: call for name, call in problem.contenders.items() if compiled or name != "compile"}
    allowed = ALLOWED[case.dtype] if problem.allowed is None else problem.allowed
    problem = replace(problem, contenders=chosen, allowed=allowed)
    if case.elements <= CHECKED_TO:
        timing.check(problem)
    return problem


def measure(case: SweepCase, compiled: bool, patience: int = 1) -> Row:
    """The medians of torchnotes and of the fastest rival."""
    problem = prepared(case, compiled and case.elements >= COMPILED_FROM)
    contenders, copied = dict(problem.contenders), 0
    if case.elements >= LIMITED_FROM:
        contenders[COPY], copied = timing.copy_contender(case.elements, case.dtype, torch.device("cpu"))
    device = torch.device("cpu")
    calls = {name: min(timing.time_calls(call, 1, device) for _ in range(3)) for name, call in contenders.items()}
    round_seconds = sum(max(SAMPLE_SECONDS, seconds) + seconds for seconds in calls.values())
    repeats = patience * max(FEWEST, min(MOST, int(SECONDS / round_seconds)))
    samples = timing.interleave(contenders, device, "warm", repeats, SAMPLE_SECONDS)
    medians = {name: median(seconds) for name, seconds in samples.items()}
    copy = medians.pop(COPY, math.nan)
    ours = medians.pop(OURS)
    rival = min(medians, key=medians.__getitem__)
    gbps = problem.bytes_moved / ours / 1e9
    return {
        "family": case.family,
        "case": case.name,
        "dtype": str(case.dtype).removeprefix("torch."),
        "elements": case.elements,
        "torchnotes_us": 1e6 * ours,
        "rival": rival,
        "rival_us": 1e6 * medians[rival],
        "ratio": medians[rival] / ours,
        "gbps": gbps,
        "copy_fraction": gbps / (copied / copy / 1e9) if copied else "",
    }


def measure_twice(case: SweepCase, compiled: bool) -> Row:
    row = measure(case, compiled)
    return row if row["ratio"] >= 1 else measure(case, compiled, patience=3)


def selected(families: Sequence[str], words: Sequence[str], full: bool) -> list[SweepCase]:
    return [
        case
        for case in cases()
        if (full or case.quick)
        and (not families or case.family in families)
        and all(word in f"{case.name}, {case.dtype}" for word in words)
    ]


def label(row: Row) -> str:
    return f"{row['case']}, {row['dtype']}, {int(row['elements']):,} elements"


def quartiles(rows: Iterable[Row], column: str = "ratio") -> list[float]:
    """The minimum, the lower quartile and the median."""
    return timing.percentiles([float(row[column]) for row in rows], 0, 0.25, 0.5)


def report(rows: Sequence[Row]) -> str:
    """Losses, worst first, and a line for each family."""
    by_family: dict[str, list[Row]] = {}
    for row in rows:
        by_family.setdefault(row["family"], []).append(row)
    losses = sorted((row for row in rows if row["ratio"] < LOSS), key=lambda row: row["ratio"])
    lines = [f"{len(losses)} of {len(rows)} cases are slower than torch:"]
    lines += [f"  {row['ratio']:5.2f}  {row['family']:<20} {label(row)} ({row['rival']})" for row in losses]
    lines.append(f"{'':<34} {'min':>6} {'25 %':>6} {'median':>6}  losses")
    for family, of_family in sorted(by_family.items(), key=lambda item: quartiles(item[1])):
        least, quarter, middle = quartiles(of_family)
        count = sum(row["ratio"] < LOSS for row in of_family)
        lines.append(f"{family:<34} {least:6.2f} {quarter:6.2f} {middle:6.2f}  {count} of {len(of_family)}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", metavar="OPERATION", help="the operations to measure (default: all)")
    parser.add_argument("--full", action="store_true", help="all cases")
    parser.add_argument("--compile", action="store_true", help="also against torch.compile")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="cases whose names contain all words")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="merge the rows into this file")
    parser.add_argument("--save", action="store_true", help=f"merge the rows into {PATH.name}")
    return parser.parse_args()


def reuse_memory() -> None:
    """Starts this program again, with a heap that keeps what is freed: new pages would be a matter of chance."""
    environment = memory.environment("warm")
    if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2":
        environment["MKL_ENABLE_INSTRUCTIONS"] = "AVX2"  # torch calls its tanh, for example
    if os.environ.get("GLIBC_TUNABLES") != environment["GLIBC_TUNABLES"]:
        os.execve(sys.executable, sys.orig_argv, environment)


def main() -> None:
    options = arguments()
    reuse_memory()
    torch.set_num_threads(options.threads)
    chosen = selected(options.families, options.only, options.full)
    if not chosen:
        sys.exit("no case has such a name")
    origin = results.origin(torch.device("cpu"), options.threads) | {
        "machine": results.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    origin.pop("device")
    rows = []
    for case in chosen:
        rows.append(rounded(measure_twice(case, options.compile)) | origin)
        if rows[-1]["ratio"] < LOSS:
            print(f"{rows[-1]['ratio']:5.2f}  {case.family:<20} {label(rows[-1])} ({rows[-1]['rival']})", flush=True)
        torch.compiler.reset()
    for path in filter(None, (options.csv, PATH if options.save else None)):
        results.merge(path, rows, KEY, COLUMNS)
    print(report(rows))


if __name__ == "__main__":
    main()
