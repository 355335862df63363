"""The modules are torch.nn's in everything but who computes."""

import copy
import inspect
import pickle

import pytest
import torch

import torchnotes

CASES = [
    ("MSELoss", {}),
    ("MSELoss", {"reduction": "sum"}),
    ("BCEWithLogitsLoss", {}),
    ("BCEWithLogitsLoss", {"reduction": "none", "pos_weight": torch.tensor([1.0, 2.0, 3.0, 0.5])}),
    ("BCEWithLogitsLoss", {"weight": torch.rand(3, 4)}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_constructor_repr_state_and_values(name, options):
    ours, theirs = getattr(torchnotes.nn, name)(**options), getattr(torch.nn, name)(**options)
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert isinstance(ours, type(theirs))
    x, y = torch.randn(3, 4, requires_grad=True), torch.rand(3, 4)
    for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(module(x, y), theirs(x, y))
        assert module(x, y).grad_fn.name() == f"{name}Backward"


def test_signatures():
    """What torch's lacks comes after its parameters, by keyword alone."""
    assert inspect.signature(torchnotes.nn.MSELoss) == inspect.signature(torch.nn.MSELoss)
    ours, theirs = (
        [(p.name, p.default) for p in inspect.signature(nn.BCEWithLogitsLoss).parameters.values()]
        for nn in (torchnotes.nn, torch.nn)
    )
    assert ours == [*theirs, ("label_smoothing", 0.0), ("ignore_index", None)]


def test_what_torchs_lack():
    x, y = torch.randn(6), torch.tensor([0.0, 1, 1, -1, 0, 1])
    options = dict(label_smoothing=0.1, ignore_index=-1)
    loss = torchnotes.nn.BCEWithLogitsLoss(**options)
    expected = torchnotes.functional.binary_cross_entropy_with_logits(x, y, **options)
    assert loss(x, y) == expected


def test_pinball():
    f, y, w = torch.randn(5, 3, requires_grad=True), torch.randn(5), torch.rand(5)
    module = torchnotes.nn.PinballLoss((0.1, 0.5, 0.9), reduction="sum", smoothing=0.2)
    assert repr(module) == "PinballLoss(quantiles=(0.1, 0.5, 0.9), smoothing=0.2)"
    for again in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        expected = torchnotes.functional.pinball_loss(f, y, (0.1, 0.5, 0.9), weight=w, reduction="sum", smoothing=0.2)
        assert again(f, y, w) == expected
    assert torchnotes.nn.PinballLoss()(y, y) == 0
    for wrong in ({"quantiles": 0.0}, {"quantiles": (0.5, 1.0)}, {"smoothing": -1.0}):
        with pytest.raises(ValueError, match="must"):
            torchnotes.nn.PinballLoss(**wrong)
