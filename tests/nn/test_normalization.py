"""Batch normalizations with changing attributes, invalid inputs and additional options."""

import copy

import pytest
import torch

from checks import outcome
from torchnotes import nn

SHAPES = {1: ((4, 3), (4, 3, 5)), 2: ((4, 3, 5, 6),), 3: ((2, 3, 2, 3, 4),)}


@pytest.mark.parametrize("momentum", (0.1, None))
def test_switching_tracking_after_construction(momentum):
    for before in (True, False):
        options = dict(momentum=momentum, track_running_stats=before)
        theirs, ours, sync = (
            module(3, **options) for module in (torch.nn.BatchNorm1d, nn.BatchNorm1d, nn.SyncBatchNorm)
        )
        sync_of_theirs = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(theirs))
        x = torch.randn(4, 3)
        for tracking, training in ((before, True), (not before, True), (not before, False), (before, True)):
            theirs.train(training).track_running_stats = tracking
            y = theirs(x)
            for module in (ours, sync, sync_of_theirs):
                module.train(training).track_running_stats = tracking
                torch.testing.assert_close(module(x), y)
                torch.testing.assert_close(module.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("training", (0, 1, None, "yes", torch.tensor(True)))
def test_training_may_be_any_truth_value(training):
    x, results = torch.randn(4, 3), []
    for module in (torch.nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.SyncBatchNorm(3)):
        module.training = training
        results.append((module(x), module.state_dict()))
    torch.testing.assert_close(results[1:], results[:1] * 2)


@pytest.mark.parametrize("dim", SHAPES)
def test_wrong_dimensions_and_channels_raise_torchs_errors(dim):
    ours, theirs = (getattr(space, f"BatchNorm{dim}d")(3) for space in (nn, torch.nn))
    shapes = ((3,), (4, 3), (4, 3, 5), (4, 3, 5, 6), (2, 3, 2, 3, 4), (2, 3, 1, 1, 1, 1))
    wrong = [shape for shape in shapes if len(shape) not in map(len, SHAPES[dim])]
    for shape in wrong:
        assert outcome(ours, torch.randn(shape)) == outcome(theirs, torch.randn(shape))
    with pytest.raises(RuntimeError, match="should contain 4 elements not 3"):
        ours(torch.randn(4, 4, *SHAPES[dim][0][2:]))
    torch.testing.assert_close(ours.running_mean, torch.zeros(3))


def test_additional_options():
    x = torch.randn(4, 3, 5)
    module = nn.BatchNorm1d(3, activation="leaky_relu", negative_slope=0.2)
    assert repr(module).endswith("activation='leaky_relu', negative_slope=0.2)")
    torch.testing.assert_close(module(x), torch.nn.functional.leaky_relu(torch.nn.BatchNorm1d(3)(x), 0.2))
    in_place, y = nn.BatchNorm1d(3, inplace=True), x.clone()
    assert in_place(y) is y
    centered = nn.BatchNorm1d(3, center_only=True)
    torch.testing.assert_close(centered(x), x - x.mean((0, 2), keepdim=True))
    assert torch.equal(centered.running_var, torch.ones(3))
    centered.eval()
    torch.testing.assert_close(centered(x), x - 0.1 * x.mean((0, 2), keepdim=True))
    for module in (nn.BatchNorm1d, nn.LazyBatchNorm1d):
        with pytest.raises(ValueError, match="activation must be one of"):
            module(*([3] if module is nn.BatchNorm1d else []), activation="gelu")
