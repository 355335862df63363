"""tests/distributed, by so many processes."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_by_ranks(ranks):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    pytest_of_ranks = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", str(HERE / "distributed")]
    done = subprocess.run([*command, *pytest_of_ranks], capture_output=True, text=True, timeout=1200, cwd=HERE.parent)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
