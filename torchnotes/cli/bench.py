"""compare the speed and memory of operations with torch eager and torch.compile

Reports median times and allocated memory, after checking each result against float64. All operations together take an
hour. Examples:

  bench sigmoid tanh --sizes 64 100000    two operations, every case at these sizes
  bench network --plot network.png        training steps of whole networks, and a plot
"""

import argparse
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

import torchnotes

from .._bad_input import BadInput, check_writable, extra
from ._arguments import at_least, device, number_of_threads
from ._json import add_json, check_json, text_stream, write_json
from ._names import add_operations, selected


def part(name: str) -> Any:
    """Imports a module of benchmarks, a package next to torchnotes in a checkout and inside it when installed."""
    if importlib.util.find_spec("torchnotes.benchmarks"):
        return importlib.import_module(f"torchnotes.benchmarks.{name}")
    checkout = Path(torchnotes.__file__).parents[1]
    found = importlib.util.find_spec("benchmarks")
    if found is None or Path(str(found.origin)).parents[1] != checkout:
        raise BadInput(f"no benchmarks found: run this in {checkout}")
    return importlib.import_module(f"benchmarks.{name}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_operations(parser, "measure")
    add("--cases", nargs="+", metavar="CASE", help="only the cases with these names")
    add("--sizes", nargs="+", type=at_least(1), metavar="N", help="numbers of elements, instead of each case's own")
    add("--device", type=device, default=torch.device("cpu"), help="cpu (the default) or cuda")
    add("--threads", type=number_of_threads, default=torch.get_num_threads(), metavar="N", help="number of CPU threads")
    add("--repeats", type=at_least(1), default=30, metavar="N", help="samples of each contender (30)")
    add("--csv", type=Path, metavar="FILE", help="merge the rows into this file")
    add("--save", action="store_true", help="merge the rows into the results of this machine (requires a checkout)")
    add_json(parser, "the rows")
    add("--plot", type=Path, metavar="FILE", help="plot the ratios to the fastest alternative")


def run(options: argparse.Namespace) -> int:
    runner, results = part("runner"), part("results")
    operations = selected(options.operations, runner.OPERATIONS, "measure")
    tables = [options.csv] if options.csv else []
    if options.save:
        if not results.RESULTS.is_dir():
            raise BadInput("--save requires a checkout: use --csv instead")
        tables.append(results.default_path(options.device, options.threads))
    check_json(options.json)
    for path in (*tables, *([options.plot] if options.plot else [])):
        check_writable(path)
    for path in filter(Path.exists, tables):
        if not results.can_take_rows(path):
            raise BadInput(f"{path} was not written by python -m torchnotes bench")
    if options.plot:
        extra("matplotlib")
    origin = results.origin(options.device, options.threads)
    every_row: list[dict[str, Any]] = []
    selection = operations, options.cases, options.sizes, options.device, options.threads, options.repeats
    for rows in runner.measure(*selection):
        for case in dict.fromkeys(row["case"] for row in rows):
            summary = runner.summary([row for row in rows if row["case"] == case])
            print(summary, file=text_stream(options.json), flush=True)
        every_row += [row | origin for row in rows]
        for path in tables:  # after every case, so that an interrupted run keeps its results
            results.merge(path, every_row)
    if not every_row:
        raise BadInput(f"no case is called {' or '.join(options.cases)}")
    write_json(options.json, every_row)
    if options.plot:
        part("plot").draw_ratios(every_row, options.plot)
    return 0
