"""The additional options of losses, and the pinball loss."""

import copy
import pickle

import pytest
import torch

import torchnotes
from torchnotes import functional as F


def test_additional_options():
    x, y = torch.randn(6), torch.tensor([0.0, 1, 1, -1, 0, 1])
    options = dict(label_smoothing=0.1, ignore_index=-1)
    assert torchnotes.nn.BCEWithLogitsLoss(**options)(x, y) == F.binary_cross_entropy_with_logits(x, y, **options)
    weight = torch.rand(6)
    assert torchnotes.nn.MSELoss()(x, y, weight) == F.mse_loss(x, y, weight=weight)
    logits, classes = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 2, 3])
    for options in ({"z_loss": 0.1}, {"logit_softcap": 2.0}):
        assert torchnotes.nn.CrossEntropyLoss(**options)(logits, classes) == F.cross_entropy(logits, classes, **options)
    with pytest.raises(RuntimeError, match="leaf"):
        torchnotes.nn.CrossEntropyLoss(inplace_backward=True)(logits, classes)
    assert torchnotes.nn.CrossEntropyLoss(empty="zero")(logits, torch.full((3,), -100)) == 0


def test_pinball():
    f, y, w = torch.randn(5, 3, requires_grad=True), torch.randn(5), torch.rand(5)
    module = torchnotes.nn.PinballLoss((0.1, 0.5, 0.9), reduction="sum", smoothing=0.2)
    assert repr(module) == "PinballLoss(quantiles=(0.1, 0.5, 0.9), smoothing=0.2)"
    for again in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        expected = F.pinball_loss(f, y, (0.1, 0.5, 0.9), weight=w, reduction="sum", smoothing=0.2)
        assert again(f, y, w) == expected
    assert torchnotes.nn.PinballLoss()(y, y) == 0
    for wrong in ({"quantiles": 0.0}, {"quantiles": (0.5, 1.0)}, {"smoothing": -1.0}):
        with pytest.raises(ValueError, match="must"):
            torchnotes.nn.PinballLoss(**wrong)
