"""Measure operations beside their rivals.

python -m benchmarks --save                            everything, into results/<this machine>.csv
python -m benchmarks sigmoid tanh --sizes 64 100000    two operations, every case at these sizes
"""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from . import memory, results
from .results import Row

OPERATIONS = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operations", nargs="*", metavar="operation", help=f"of {', '.join(OPERATIONS)}; default: all")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these, by name")
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help="instead of each case's own, in elements")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=30, help="samples of each contender (default: %(default)s)")
    parser.add_argument("--csv", type=Path, metavar="PATH", help="merge the rows into this file")
    parser.add_argument("--save", action="store_true", help="merge the rows into benchmarks/results/<this machine>.csv")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the rows of this run to this file")
    arguments = parser.parse_args()
    unknown = set(arguments.operations) - set(OPERATIONS)
    if unknown:
        parser.error(f"no benchmark of {', '.join(sorted(unknown))}; there are {', '.join(OPERATIONS)}")
    return arguments


def measure(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """The rows of one case at one size after another."""
    for operation in arguments.operations or OPERATIONS:
        for case in importlib.import_module(f"benchmarks.bench_{operation}").CASES:
            if arguments.cases and case.name not in arguments.cases:
                continue
            for size in arguments.sizes or case.sizes:
                request = {
                    "benchmark": operation,
                    "case": case.name,
                    "size": size,
                    "device": str(arguments.device),
                    "threads": arguments.threads,
                    "repeats": arguments.repeats,
                }
                worker = [sys.executable, "-m", "benchmarks.worker", json.dumps(request)]
                environment = memory.environment(case.regime(size, arguments.device))
                output = subprocess.run(worker, env=environment, stdout=subprocess.PIPE, check=True).stdout
                yield [{"benchmark": operation, **row} for row in json.loads(output)]


def main() -> None:
    arguments = parse_arguments()
    origin = results.origin(arguments.device, arguments.threads)
    paths = [arguments.csv] if arguments.csv else []
    paths += [results.default_path(arguments.device, arguments.threads)] if arguments.save else []
    everything: list[Row] = []
    for rows in measure(arguments):
        for case in dict.fromkeys(row["case"] for row in rows):
            print(summary([row for row in rows if row["case"] == case]), flush=True)
        everything += [row | origin for row in rows]
        for path in paths:  # now, so that a run that is cut short keeps what it has
            results.merge(path, everything)
    if not everything:
        raise SystemExit(f"no case named {' or '.join(arguments.cases)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")


def summary(rows: list[Row]) -> str:
    first = rows[0]
    if "median_us" in first:
        figures = (f"{row['contender']} {row['median_us']:,.1f} us" for row in rows)
    else:
        figures = (f"{row['contender']} {row['dtype']} {row['max_error']:.3g} ulp" for row in rows)
    return f"{first['benchmark']:<11} {first['case']:<32} {first['size']:>11,}  {'   '.join(figures)}"


if __name__ == "__main__":
    main()
