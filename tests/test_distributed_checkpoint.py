"""A distributed checkpoint of 4 ranks can be loaded by 2 ranks and by one process to continue training."""

import importlib.util

import pytest
import torch

from torchrun import TESTS, torchrun

SCRIPT = TESTS / "distributed/checkpoints.py"


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_saved_by_4_ranks_and_loaded_by_2_and_by_1(tmp_path):
    torchrun(4, str(SCRIPT), "save", str(tmp_path), timeout=300)
    torchrun(2, str(SCRIPT), "load", str(tmp_path), timeout=300)
    spec = importlib.util.spec_from_file_location("checkpoints", SCRIPT)
    checkpoints = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checkpoints)
    for name in checkpoints.OPTIONS:
        net = checkpoints.network(1)
        optimizer = checkpoints.optimizer_of(net, torch.optim, name)
        checkpoints.load(net, optimizer, tmp_path / f"torchnotes.optim {name}")
        checkpoints.train(net, optimizer, after=checkpoints.STEPS)
        checkpoints.assert_trained(net, name)
