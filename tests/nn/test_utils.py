"""fuse_batch_norm."""

import copy

import pytest
import torch

import torchnotes
from torchnotes import nn
from torchnotes.nn.utils import fuse_batch_norm
from torchnotes.ops.activations import ACTIVATIONS


def trained(model: torch.nn.Module, *shape: int) -> torch.nn.Module:
    """Randomizes running statistics and parameters. Returns the model in eval mode."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    for _ in range(3):
        model(2 * torch.randn(8, *shape) + 1)
    return model.eval()


def norms(model: torch.nn.Module) -> int:
    return sum(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules())


LAYERS = [
    (lambda bias: torch.nn.Conv1d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm1d, (4, 9)),
    (lambda bias: torch.nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=bias), nn.BatchNorm2d, (4, 9, 8)),
    (lambda bias: torch.nn.Conv3d(4, 6, 2, bias=bias), nn.BatchNorm3d, (4, 3, 4, 5)),
    (lambda bias: torch.nn.ConvTranspose1d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm1d, (4, 9)),
    (lambda bias: torch.nn.ConvTranspose2d(4, 6, 3, stride=2, bias=bias), torch.nn.BatchNorm2d, (4, 5, 5)),
    (lambda bias: torch.nn.Linear(4, 6, bias=bias), nn.BatchNorm1d, (4,)),
    (lambda bias: torch.nn.Linear(4, 6, bias=bias), torch.nn.BatchNorm1d, (4,)),
]


@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer(layer, bias):
    make, norm, shape = layer
    options = [{}, {"affine": False}, {"eps": 0.1}]
    if norm.__module__.startswith("torchnotes"):
        options += [{"activation": activation} for activation in ACTIVATIONS]
        options += [{"center_only": True}, {"bias": False, "inplace": True}]
    for option in options:
        model = trained(torch.nn.Sequential(make(bias), norm(6, **option)), *shape)
        before, x = copy.deepcopy(model.state_dict()), torch.randn(5, *shape)
        fused = fuse_batch_norm(model)
        assert norms(fused) == 0
        torch.testing.assert_close(fused(x), model(x), rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(model.state_dict(), before)
        assert [p.dtype for p in fused.parameters()] == [torch.float32] * 2


def test_the_activation_replaces_the_normalization():
    model = trained(torch.nn.Sequential(torch.nn.Linear(4, 6), nn.BatchNorm1d(6, activation="leaky_relu")), 4)
    assert isinstance(fuse_batch_norm(model)[1], nn.LeakyReLU)
    model[1].negative_slope = 0.3
    assert fuse_batch_norm(model)[1].negative_slope == 0.3


class Net(torch.nn.Module):
    """Layers that can be folded, and layers that only look as if."""

    def __init__(self):
        super().__init__()
        self.folds = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4))
        self.used_twice = torch.nn.Conv2d(4, 4, 1)
        self.norm_of_used_twice = nn.BatchNorm2d(4)
        self.output_used_twice = torch.nn.Conv2d(4, 4, 1)
        self.norm_of_output_used_twice = nn.BatchNorm2d(4)
        self.norm_alone = nn.BatchNorm2d(4, activation="relu")
        self.without_statistics = torch.nn.Sequential(
            torch.nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
        )

    def forward(self, x):
        x = self.folds(x)
        x = self.norm_of_used_twice(self.used_twice(self.used_twice(x)))
        y = self.output_used_twice(x)
        return self.without_statistics(self.norm_alone(torch.relu(y + self.norm_of_output_used_twice(y))))


def test_only_foldable_layers_are_folded():
    model = trained(Net(), 3, 5, 5)
    fused = fuse_batch_norm(model)
    assert isinstance(fused, Net)
    assert norms(fused) == norms(model) - 1
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)


def test_in_training_nothing_is_folded():
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), nn.BatchNorm1d(6))
    assert norms(fuse_batch_norm(model)) == 1
    assert norms(fuse_batch_norm(nn.BatchNorm1d(6).eval())) == 1


def test_nothing_is_folded_into_a_layer_that_ends_with_an_activation():
    for activation, left in (("relu", 1), (None, 0)):
        model = trained(torch.nn.Sequential(nn.Linear(4, 6, activation=activation), nn.BatchNorm1d(6)), 4)
        fused = fuse_batch_norm(model)
        assert norms(fused) == left
        x = torch.randn(3, 4)
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_folded_model_still_trains_its_parameters():
    model = trained(torch.nn.Sequential(torch.nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)), 4)
    model[0].weight.requires_grad_(False)
    fused = torchnotes.nn.utils.fuse_batch_norm(model)
    assert not fused[0].weight.requires_grad
    assert isinstance(fused[1], torch.nn.Identity)
