"""The example learns."""

import subprocess
import sys
from pathlib import Path

import torchnotes


def test_train_learns_the_two_spirals():
    done = subprocess.run(
        [sys.executable, "-m", "torchnotes", "train"],
        cwd=Path(torchnotes.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    *_, last = done.stdout.splitlines()
    assert float(last.split("%")[0]) > 97, done.stdout
