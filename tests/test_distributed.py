"""tests/distributed, by so many processes; and what one process alone is told."""

import pytest
import torch

import torchnotes
from torchnotes import functional as F
from torchrun import TESTS, torchrun


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_by_ranks(ranks):
    pytest_of_ranks = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", str(TESTS / "distributed"))
    torchrun(ranks, *pytest_of_ranks, timeout=1200)


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
