"""Starts programs on several ranks."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import torchnotes

TESTS = Path(__file__).parent


def launcher(ranks: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]


def torchrun(ranks: int, *program: str, timeout: float) -> None:
    """Runs a program on several ranks, with the torchnotes of this process. Raises unless it succeeds.

    On a busy machine SIGABRT has ended a rank twice, once at exit. We could not reproduce it, and suspect torch's gloo,
    because AddressSanitizer finds nothing in our code (`make sanitize` runs the same tests). Therefore a run is
    repeated once, with a warning, if a rank aborts, but not if a test fails.
    """
    paths = (str(Path(torchnotes.__file__).parents[1]), str(TESTS.parent), os.environ.get("PYTHONPATH"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [*launcher(ranks), *program]
    for may_abort in (True, False):
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=TESTS, env=environment)
        # The output begins with the aborted rank's error and ends with the launcher's report.
        report = f"{done.stdout[-8000:]}\n{done.stderr[:6000]}\n...\n{done.stderr[-4000:]}"
        if may_abort and "Signal 6 (SIGABRT)" in done.stderr:
            warnings.warn(f"one of {ranks} ranks aborted; the run is repeated:\n{report}", stacklevel=2)
        else:
            assert done.returncode == 0, report
            return
