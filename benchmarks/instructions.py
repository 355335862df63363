"""Counts the instructions of operations on data in cache, per element: `python -m benchmarks.instructions`.

A process executes a call in single steps (ptrace, Linux on x86-64), forward and backward, with one thread. The counts
of two sizes are subtracted, so that what a call costs at any size disappears. ATEN_CPU_CAPABILITY=avx2 selects the
instruction set of both sides; an instruction of AVX-512 does twice the work of one of AVX2. A call takes half a minute.
"""

import argparse
import ctypes
import gc
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from . import families, optimizers, results
from .results import Row
from .timing import OURS, Contender, Problem

TRACEME, SINGLESTEP = 0, 9
SMALL, LARGE = 2**12, 3 * 2**12  # elements
CPU, F32 = torch.device("cpu"), torch.float32
PATH = results.RESULTS / "instructions.csv"
KEY = ("operation", "case", "instructions")
COLUMNS = (*KEY, "torchnotes", "rival", "rival_name", *results.ORIGIN)

Setup = Callable[[int], Problem]


def setups() -> dict[tuple[str, str], Setup]:
    """A problem of any size for each operation and case."""
    found: dict[tuple[str, str], Setup] = {}
    for name, operation in families.ACTIVATIONS.items():
        builtin: Any = getattr(torch, name, operation.builtin)
        found[name, "training"] = partial(families.elementwise, operation.function, builtin, True, None, dtype=F32)
    for name in ("mse_loss", "binary_cross_entropy_with_logits"):
        eager = getattr(torch.nn.functional, name)
        found[name, "mean"] = partial(families.elementwise_loss, name, eager, "mean", dtype=F32)
    for length in (10, 64, 1024):
        for name in ("softmax", "log_softmax"):
            found[name, f"rows of {length}"] = partial(softmax, name, length)
        found["cross_entropy", f"rows of {length}"] = partial(cross_entropy, length)
    for last in (False, True):
        found["batch_norm", f"images of 16 x 8 x 8{', channels last' if last else ''}"] = partial(batch_norm, last)
    for name, (ours, eager) in families.NOISES.items():
        found[name, "training"] = partial(families.noisy, ours, eager, dtype=F32)
    for name in ("uniform_", "normal_"):
        found[name.rstrip("_"), "fill"] = partial(families.filled, name, dtype=F32)
    for label in families.STEPS:
        found[label.split(",")[0], f"step{label.partition(',')[2]}"] = partial(step, label)
    return found


def softmax(name: str, length: int, size: int) -> Problem:
    return families.softmax(name, True, (size // length, length), 1, F32)


def cross_entropy(length: int, size: int) -> Problem:
    return families.cross_entropy((size // length, length), 0.0, F32)


def batch_norm(last: bool, size: int) -> Problem:
    return families.batch_norm((size // 1024, 16, 8, 8), last, True, F32)


def step(label: str, size: int) -> Problem:
    ours, theirs, options, streams = families.STEPS[label]
    chosen = options | {"lr": families.LEARNING_RATE}
    return optimizers.stepped(ours, theirs, ((size,),), streams, chosen, size, F32, CPU)


def count(call: Contender) -> int:
    """The instructions of a call, between the two stops of a process."""
    trace = ctypes.CDLL(None, use_errno=True).ptrace
    trace.argtypes = ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
    child = os.fork()
    if child == 0:
        gc.disable()
        call(), call()
        trace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        call()
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    steps = 0
    _, status = os.waitpid(child, 0)
    stopped = os.WSTOPSIG(status)
    while stopped != signal.SIGSTOP or steps == 0:
        if trace(SINGLESTEP, child, None, None) < 0:
            raise OSError(ctypes.get_errno(), "cannot execute single steps")
        steps += 1
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            raise RuntimeError("the process ended before its second stop")
        stopped = os.WSTOPSIG(status)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return steps


def per_element(setup: Setup, contender: str) -> float:
    small, large = (count(setup(size).contenders[contender]) for size in (SMALL, LARGE))
    return (large - small) / (LARGE - SMALL)


def measure(operation: str, case: str, setup: Setup) -> Row:
    contenders = setup(SMALL).contenders
    rival = "fused" if "fused" in contenders else "eager" if "eager" in contenders else "foreach"
    ours, theirs = (per_element(setup, name) for name in (OURS, rival))
    return {"operation": operation, "case": case, "torchnotes": ours, "rival": theirs, "rival_name": rival}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help="the operations to measure (default: all)")
    parser.add_argument("--save", action="store_true", help=f"merge the rows into {PATH.name}")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    instructions = torch.backends.cpu.get_cpu_capability()
    origin = {"instructions": instructions, **{name: results.origin(CPU, 1)[name] for name in results.ORIGIN}}
    rows = []
    for (operation, case), setup in setups().items():
        if not chosen.operations or operation in chosen.operations:
            rows.append(results.rounded(measure(operation, case, setup)) | origin)
            row = rows[-1]
            print(
                f"{operation:<34} {case:<36} {row['torchnotes']:8.2f} {row['rival']:8.2f} {row['rival_name']}",
                flush=True,
            )
    if chosen.save:
        results.merge(PATH, rows, KEY, COLUMNS)


if __name__ == "__main__":
    main()
