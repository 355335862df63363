"""check the derivatives and the accuracy of every operation on this machine

The columns gradcheck and "second order" are torch.autograd's gradcheck and gradgradcheck, including forward mode.

The columns float32 to float16 show the largest error compared with float64 and, in parentheses, torch's for the same
inputs, in the case with the worst ratio. The unit is the last place of each number (activations, noise, parameters
after a step) or eps times the largest number; one rounding is half a unit. For random numbers they show the
Kolmogorov-Smirnov statistic times sqrt(n), and its bound.

The column agreement compares with the reference and with torch, for all options, in float64 and float32. Random
operations must have the expected mean and variance, and give the same numbers with any number of threads.

The exit status is 1 if anything fails.
"""

import argparse
import platform
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

import torch

from .. import _native
from .._bad_input import BadInput
from .._table import table
from ..testing.accuracy import Figures, Inaccurate
from ._arguments import at_least, device
from ._check_operations import Setup
from ._checked import CHECKED, public
from ._json import add_json, check_json, text_stream, write_json
from ._names import add_operations, selected

DTYPES = ("float32", "bfloat16", "float16")
COLUMNS = ("gradcheck", "second order", *(name.rjust(len("FAIL 0.50 (0.50)")) for name in DTYPES), "agreement")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_operations(parser, "check")
    parser.add_argument("--device", type=device, default=torch.device("cpu"), help="cpu (the default) or cuda")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="seed of the random inputs (0)")
    add_json(parser, "the figures")


def run(options: argparse.Namespace) -> int:
    names = selected(options.operations, CHECKED, "check")
    _check_kernels(options.device)
    setup = Setup(options.device, options.seed)
    check_json(options.json)
    progress = text_stream(options.json)
    rows = _run_checks(names, setup, progress)
    checks = ((row["operation"], column, check) for row in rows for column, check in row["checks"].items())
    failures = [f"{operation}, {column}: {check['error']}" for operation, column, check in checks if "error" in check]
    print("", *failures, f"{len(names)} operations checked, {len(failures)} failures", sep="\n", file=progress)
    machine = _machine(setup.device)
    content = {"machine": machine, "seed": options.seed, "failures": len(failures), "operations": rows}
    write_json(options.json, content)
    return 1 if failures else 0


def _check_kernels(device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"torchnotes has no kernels for {device.type} and would check torch's own operations")
    if device.type == "cuda" and not _native._C.cuda:
        raise BadInput("this torchnotes was built without CUDA")


def _run_checks(names: list[str], setup: Setup, progress: TextIO) -> list[dict[str, Any]]:
    """Runs the checks, and prints each row as soon as it is complete."""
    header = ("operation".ljust(max(map(len, names))), *COLUMNS)
    rows = []
    print(table(header, []), file=progress, flush=True)
    for name in names:
        ours, record = public(name), CHECKED[name]
        checks: dict[str, Callable[..., Figures | None]] = {
            "gradcheck": record.gradcheck,
            "second order": record.second_order,
            **{name: partial(record.accuracy, dtype=getattr(torch, name)) for name in DTYPES},
            "agreement": record.agreement,
        }
        outcomes = {column: _outcome(partial(check, ours), setup) for column, check in checks.items()}
        print(table(header, [(name, *map(_cell, outcomes.values()))]).splitlines()[-1], file=progress, flush=True)
        applicable = {column: outcome for column, outcome in outcomes.items() if outcome is not None}
        rows.append({"operation": name, "checks": applicable})
    return rows


def _outcome(check: Callable[[Setup], Figures | None], setup: Setup) -> dict[str, Any] | None:
    """The outcome of a check, or None if there is nothing to check."""
    torch.manual_seed(setup.seed)
    start = time.perf_counter()
    failure: dict[str, str] = {}
    try:
        figures = check(setup)
        if figures is None:
            return None
    except Exception as error:
        figures = error.figures if isinstance(error, Inaccurate) else {}
        failure = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0]}
    seconds = round(time.perf_counter() - start, 3)
    return {"passed": not failure, **failure, "seconds": seconds, "figures": figures}


def _cell(check: dict[str, Any] | None) -> str:
    if check is None:
        return "-"
    figures = check["figures"]
    compared = figures.get("torch", figures.get("bound"))
    text = "" if compared is None else f"{figures['ours']:.2f} ({compared:.2f})"
    return text or "ok" if check["passed"] else f"FAIL {text}".strip()


def _machine(device: torch.device) -> dict[str, str | int]:
    built = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in _native.build_info().splitlines())
    return {
        **built,
        "torch": torch.__version__,
        "device": str(device),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
