"""python -m conformance: compares torchnotes with torch on the samples of torch's own tests.

Fails if results differ without a reason in differences.py, or if a reason there is no longer needed.
"""

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .differences import DIFFERENCES
from .run import PARTS, Difference, Run, run
from .upstream import FILES
from .upstream import run as run_upstream

KINDS = ("silent", "form", "rejected", "accepted", "exception", "warnings", "failed", "broken")
ALL = Path("build/conformance.txt")


def reasons(differences: list[Difference]) -> tuple[list[Difference], Counter]:
    """The differences without a reason, and how often each pattern matched."""
    unexplained, matched = [], Counter()
    for difference in differences:
        pattern = next((p for p in DIFFERENCES if re.search(p, str(difference))), None)
        matched[pattern] += 1
        if pattern is None:
            unexplained.append(difference)
    return unexplained, matched


def alike(differences: list[Difference]) -> Iterator[tuple[Difference, int]]:
    """One difference of each sort with its count. Differences of one sort differ only in numbers and dtypes."""

    def sort(one: Difference) -> tuple[str, str]:
        return re.sub(r"b?float\d+|[-\d.,]+", "", one.case), re.sub(r"[-\d.,]+", "", one.what)[:60]

    counts = Counter(map(sort, differences))
    seen = set()
    for one in differences:
        if sort(one) not in seen:
            seen.add(sort(one))
            yield one, counts[sort(one)]


def runs(only: list[str], upstream: str | None, jobs: int) -> Iterator[Run]:
    named = [(run, part, name) for part, module in PARTS.items() for name in module.names()]
    if upstream:
        named += [(run_upstream, upstream, file) for file in FILES]
    if only:  # all, if no name matches
        named = [one for one in named if any(re.search(rf"\b{one[2]}\b", text) for text in only)] or named
    with ProcessPoolExecutor(jobs, mp_context=get_context("forkserver")) as pool:
        for job in as_completed([pool.submit(*one, only) for one in named]):
            result = job.result()
            print(f"{result.name}: {result.cases} cases, {len(result.differences)} differences", file=sys.stderr)
            yield result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of cases, or parts of them")
    parser.add_argument("--upstream", help="a checkout of PyTorch, whose tests are run with torch's and with ours")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("", "cases", *KINDS, "explained", "seconds")
    found, cases = [], 0
    ALL.parent.mkdir(exist_ok=True)
    ALL.write_text("")
    for one in runs(arguments.only, arguments.upstream, arguments.jobs):
        unexplained, _ = reasons(one.differences)
        counts = Counter(difference.kind for difference in unexplained)
        numbers = (one.cases, *(counts[kind] for kind in KINDS), len(one.differences) - len(unexplained))
        table.add_row(one.name, *(str(n or "") for n in numbers), f"{one.seconds:.0f}")
        with ALL.open("a") as file:
            file.writelines(f"{each.case} ({each.call}): {each.what}\n" for each in unexplained)
        found += one.differences
        cases += one.cases
    unexplained, matched = reasons(found)
    for difference, count in alike(unexplained):
        more = f" ({count} alike)" if count > 1 else ""
        print(f"{difference}{more}\n    make conformance ONLY='{difference.case}'")
    console.print(table)
    stale = [p for p in DIFFERENCES if not matched[p] and (arguments.upstream or not p.startswith("upstream"))]
    stale = [] if arguments.only else stale
    for pattern in stale:
        print(f"No difference matches this pattern in differences.py: {pattern}")
    explained = len(found) - len(unexplained)
    print(f"{cases} cases: {len(unexplained)} unexplained differences ({ALL}), {explained} explained ones")
    return int(bool(unexplained or stale or not cases))


if __name__ == "__main__":
    sys.exit(main())
