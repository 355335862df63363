"""measure operations against torch eager and torch.compile

Each case is first checked against float64. Reports median times and allocated memory, for the given operations or for
all of them, which takes an hour. Examples:

  bench sigmoid tanh --sizes 64 100000    two operations, every case at these sizes
  bench network --plot network.png        training steps of whole networks, and a plot
"""

import argparse
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

import torchnotes

from .._bad_input import BadInput, check_writable, extra
from ._arguments import at_least, device, number_of_threads


def part(name: str) -> Any:
    """Imports a module of the benchmarks. They are next to torchnotes in a checkout, and inside it when installed."""
    if importlib.util.find_spec("torchnotes.benchmarks"):
        return importlib.import_module(f"torchnotes.benchmarks.{name}")
    beside = Path(torchnotes.__file__).parents[1] / "benchmarks"
    found = importlib.util.find_spec("benchmarks")
    if found is None or Path(str(found.origin)).parent != beside:
        raise BadInput(f"no benchmarks found: run this in {beside.parent}")
    return importlib.import_module(f"benchmarks.{name}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("operations", nargs="*", metavar="operation", help="all, if none is named")
    add("--cases", nargs="+", metavar="CASE", help="only these, by name")
    add("--sizes", nargs="+", type=at_least(1), metavar="N", help="instead of each case's own, in elements")
    add("--device", type=device, default=torch.device("cpu"))
    add("--threads", type=number_of_threads, default=torch.get_num_threads(), metavar="N")
    add("--repeats", type=at_least(1), default=30, metavar="N", help="samples of each contender")
    add("--csv", type=Path, metavar="FILE", help="merge the rows into this file")
    add("--save", action="store_true", help="merge the rows into those of this machine, in a checkout")
    add("--json", type=Path, metavar="FILE", help="write the rows of this run to this file")
    add("--plot", type=Path, metavar="FILE", help="draw the ratios to the best rivals")


def run(options: argparse.Namespace) -> int:
    runner, results = part("runner"), part("results")
    unknown = sorted(set(options.operations) - set(runner.OPERATIONS))
    if unknown:
        raise BadInput(f"there is no benchmark of {unknown[0]}, but of {', '.join(runner.OPERATIONS)}")
    tables = [options.csv] if options.csv else []
    if options.save:
        if not results.RESULTS.is_dir():
            raise BadInput("--save is for a checkout: name a file by --csv")
        tables.append(results.default_path(options.device, options.threads))
    for path in (*tables, options.json, options.plot):
        if path:
            check_writable(path)
    for path in filter(Path.exists, tables):
        if not results.can_take_rows(path):
            raise BadInput(f"{path} is not a table of python -m torchnotes bench")
    if options.plot:
        extra("matplotlib")
    origin = results.origin(options.device, options.threads)
    everything: list[dict[str, Any]] = []
    kinds = options.operations, options.cases, options.sizes, options.device, options.threads, options.repeats
    for rows in runner.measure(*kinds):
        for case in dict.fromkeys(row["case"] for row in rows):
            print(runner.summary([row for row in rows if row["case"] == case]), flush=True)
        everything += [row | origin for row in rows]
        for path in tables:  # after every case, so that an interrupted run keeps its results
            results.merge(path, everything)
    if not everything:
        raise BadInput(f"no case has the name {' or '.join(options.cases)}")
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    if options.plot:
        part("plot").draw_ratios(everything, options.plot)
    return 0
