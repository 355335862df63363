"""tests/distributed, by so many processes; and what one process alone is told."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchnotes
from torchnotes import functional as F

HERE = Path(__file__).parent


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_by_ranks(ranks):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    pytest_of_ranks = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", str(HERE / "distributed")]
    done = subprocess.run([*command, *pytest_of_ranks], capture_output=True, text=True, timeout=1200, cwd=HERE.parent)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]


def test_without_a_process_group():
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    group = object()
    with pytest.raises(ValueError, match="sync_batch_norm: there is no process group"):
        F.sync_batch_norm(x, None, None, training=True)
    with pytest.raises(ValueError, match="cross_entropy: there is no process group"):
        F.cross_entropy(x, target, process_group=group)
    with pytest.raises(ValueError, match="linear_cross_entropy: there is no process group"):
        F.linear_cross_entropy(x, torch.randn(5, 3), target, process_group=group)


def test_a_synchronised_layer_alone_is_an_ordinary_one():
    """As torch's is."""
    layers = torchnotes.nn.SyncBatchNorm(3, activation="relu"), torchnotes.nn.BatchNorm1d(3, activation="relu")
    x = torch.randn(4, 3, 5)
    for _ in range(2):
        for layer in layers:
            layer.train(not layer.training)
        assert torch.equal(layers[0](x), layers[1](x))
        assert all(map(torch.equal, layers[0].state_dict().values(), layers[1].state_dict().values()))
