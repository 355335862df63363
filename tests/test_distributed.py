"""Runs tests/distributed on 2, 3 and 4 ranks, and checks the errors without a process group."""

import contextlib

import pytest
import torch

import torchnotes
from torchnotes import functional as F
from torchrun import TESTS, torchrun


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_by_ranks(ranks):
    pytest_of_ranks = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", str(TESTS / "distributed"))
    torchrun(ranks, *pytest_of_ranks, timeout=1200)


@pytest.mark.parametrize(
    ("ending", "runs", "complaint"),
    (
        ("if runs == 1: os.abort()", 2, contextlib.nullcontext()),
        ("os.abort()", 2, pytest.raises(AssertionError, match="SIGABRT")),
        ("sys.exit(1)", 1, pytest.raises(AssertionError, match="exitcode  : 1")),
    ),
    ids=("aborts once", "aborts twice", "fails"),
)
@pytest.mark.filterwarnings("ignore:one of 1 ranks aborted")
def test_only_aborted_runs_are_repeated(tmp_path, ending, runs, complaint):
    log, script = tmp_path / "log", tmp_path / "script.py"
    count = f"log = open({str(log)!r}, 'a+'); log.write('.'); log.seek(0); runs = len(log.read()); log.close()"
    script.write_text(f"import os, sys\n{count}\n{ending}\n")
    with complaint:
        torchrun(1, str(script), timeout=120)
    assert len(log.read_text()) == runs


def test_without_a_process_group():
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    group = object()
    with pytest.raises(ValueError, match="sync_batch_norm: there is no process group"):
        F.sync_batch_norm(x, None, None, training=True)
    with pytest.raises(ValueError, match="cross_entropy: there is no process group"):
        F.cross_entropy(x, target, process_group=group)
    with pytest.raises(ValueError, match="linear_cross_entropy: there is no process group"):
        F.linear_cross_entropy(x, torch.randn(5, 3), target, process_group=group)


def test_sync_batch_norm_of_a_single_process_is_batch_norm():
    layers = torchnotes.nn.SyncBatchNorm(3, activation="relu"), torchnotes.nn.BatchNorm1d(3, activation="relu")
    x = torch.randn(4, 3, 5)
    for _ in range(2):
        for layer in layers:
            layer.train(not layer.training)
        assert torch.equal(layers[0](x), layers[1](x))
        assert all(map(torch.equal, layers[0].state_dict().values(), layers[1].state_dict().values()))
