"""Runs benchmarks one after the other. Each is a separate process, so that they do not share compiled code, heap or
threads.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from . import memory
from .cases import BENCHMARKS
from .results import Row, rounded

OPERATIONS = sorted(BENCHMARKS)


def measure(
    operations: Sequence[str],
    cases: Sequence[str] | None,
    sizes: Sequence[int] | None,
    device: torch.device,
    threads: int,
    repeats: int,
) -> Iterator[list[Row]]:
    """Yields the rows of one case and size after the other, by default for all cases."""
    for operation in operations or OPERATIONS:
        for case in BENCHMARKS[operation]():
            if cases and case.name not in cases:
                continue
            for size in sizes or case.sizes:
                request = {
                    "operation": operation,
                    "case": case.name,
                    "size": size,
                    "device": str(device),
                    "threads": threads,
                    "repeats": repeats,
                }
                worker = [sys.executable, "-m", f"{__package__}.runner", json.dumps(request)]
                environment = memory.environment(case.regime(size, device))
                output = subprocess.run(
                    worker,
                    env=environment,
                    stdout=subprocess.PIPE,
                    check=True,
                    start_new_session=True,  # on Ctrl-C this process kills it, without a traceback
                ).stdout
                yield [{"operation": operation, **row} for row in json.loads(output)]


def summary(rows: list[Row]) -> str:
    first = rows[0]
    if "median_us" in first:
        figures = (f"{row['contender']} {row['median_us']:,.1f} us" for row in rows)
    else:
        figures = (f"{row['contender']} {row['dtype']} {row['max_error']:.3g} ulp" for row in rows)
    return f"{first['operation']:<11} {first['case']:<32} {first['size']:>11,}  {'   '.join(figures)}"


def work(request: dict[str, Any]) -> None:
    """Measures one case at one size, and prints the rows."""
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    (case,) = (case for case in BENCHMARKS[request["operation"]]() if case.name == request["case"])
    rows = case.measure(request["size"], torch.device(request["device"]), request["repeats"])
    json.dump([rounded(row) for row in rows], sys.stdout)


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
