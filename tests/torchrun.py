"""Programs that torchrun starts."""

import os
import subprocess
import sys
from pathlib import Path

import torchnotes

TESTS = Path(__file__).parent


def torchrun(ranks: int, *program: str, timeout: float) -> None:
    """Run a program on several ranks, with the torchnotes of this process; it must succeed.

    Twice on a busy machine a rank was aborted by SIGABRT, once of them at exit. We could not repeat it and suspect
    torch's gloo, because AddressSanitizer finds no fault of ours (`make sanitize` runs the same tests under it). So a
    run in which a rank was aborted is repeated once. A test that fails is not.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *program]
    paths = (str(Path(torchnotes.__file__).parents[1]), str(TESTS.parent), os.environ.get("PYTHONPATH"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    for attempt in (1, 2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=TESTS, env=environment)
        # A rank that aborts says why first; the launcher's report comes last.
        report = f"{done.stdout[-8000:]}\n{done.stderr[:6000]}\n...\n{done.stderr[-4000:]}"
        if done.returncode == 0 or "Signal 6 (SIGABRT)" not in done.stderr:
            break
        print(f"attempt {attempt} on {ranks} ranks was aborted:\n{report}", file=sys.stderr)
    assert done.returncode == 0, report
