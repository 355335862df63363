"""Runs torch's own tests with our functions. Tests that pass with torch's must pass with ours."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .run import Difference, Run

FILES = (
    "test_nn.py",
    "test_modules.py",
    "test_ops.py",
    "functorch/test_ops.py",
    "functorch/test_vmap.py",
    "functorch/test_eager_transforms.py",
)


def run(checkout: str, file: str, only: list[str]) -> Run:
    begin = time.monotonic()
    theirs, ours = (_outcomes(Path(checkout) / "test", file, only, in_place) for in_place in (False, True))
    differences = [
        Difference(f"upstream {test}", "", outcome)
        for test, with_torch in theirs.items()
        if with_torch == "passed" and (outcome := ours.get(test, "failed: did not run")) != "passed"
    ]
    return Run(f"upstream {file}", len(theirs), time.monotonic() - begin, differences)


def _outcomes(folder: Path, file: str, only: list[str], in_place: bool) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as temporary:
        outcomes = Path(temporary) / "outcomes.json"
        settings = {
            "CONFORMANCE_IN_PLACE": str(int(in_place)),
            "CONFORMANCE_OUTCOMES": str(outcomes),
            "CONFORMANCE_ONLY": json.dumps(only),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "conformance.in_place", "-p", "no:cacheprovider"]
        command += ["--noconftest", "-c", os.devnull, "--rootdir", str(folder), str(folder / file)]
        done = subprocess.run(
            command, env={**os.environ, **settings}, capture_output=True, text=True, cwd=folder / Path(file).parent
        )
        if done.returncode not in (0, 1) or not outcomes.exists():  # 1: some tests fail
            raise RuntimeError(f"{file} did not run: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return json.loads(outcomes.read_text())
