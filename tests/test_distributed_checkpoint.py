"""What 4 ranks have saved by torch.distributed.checkpoint, 2 ranks load and go on with, and a single process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests/distributed/checkpoints.py"


def run(ranks: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run([*command, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300, env=here)
    assert done.returncode == 0, done.stderr[-8000:]


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_saved_by_4_ranks_and_loaded_by_2_and_by_1(tmp_path):
    run(4, "save", str(tmp_path))
    run(2, "load", str(tmp_path))
    spec = importlib.util.spec_from_file_location("checkpoints", SCRIPT)
    checkpoints = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checkpoints)
    for name in checkpoints.OPTIONS:
        net = checkpoints.network(1)
        optimizer = checkpoints.optimizer_of(net, torch.optim, name)
        checkpoints.load(net, optimizer, tmp_path / f"torchnotes.optim {name}")
        checkpoints.train(net, optimizer, after=checkpoints.STEPS)
        checkpoints.assert_trained(net, name)
