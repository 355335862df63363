"""The modules are torch.nn's in everything but who computes."""

import copy
import inspect
import pickle

import pytest
import torch

import torchnotes

CASES = [
    ("Sigmoid", ()),
    ("Tanh", ()),
    ("ReLU", ()),
    ("ReLU", (True,)),
    ("LeakyReLU", ()),
    ("LeakyReLU", (0.2,)),
    ("LeakyReLU", (0.2, True)),
]


@pytest.mark.parametrize(("name", "args"), CASES)
def test_constructor_repr_state_and_values(name, args):
    ours, theirs = getattr(torchnotes.nn, name)(*args), getattr(torch.nn, name)(*args)
    assert repr(ours) == repr(theirs)
    assert ours.state_dict() == theirs.state_dict()
    assert isinstance(ours, type(theirs))
    assert inspect.signature(type(ours)) == inspect.signature(type(theirs))
    x = torch.randn(3, 4)
    for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(module(x.clone()), theirs(x.clone()))
    y = x.clone()
    assert (ours(y) is y) == getattr(ours, "inplace", False)


def test_the_modules_compute_with_our_operations():
    for name, args in CASES:
        y = getattr(torchnotes.nn, name)(*args)(torch.randn(3, requires_grad=True) * 1)
        assert y.grad_fn.name() == f"{name}Backward"


def test_training_a_network_goes_as_with_torch():
    losses = []
    for nn in (torch.nn, torchnotes.nn):
        torch.manual_seed(3)
        layers = (torch.nn.Linear(4, 16), nn.LeakyReLU(0.1, inplace=True), torch.nn.Linear(16, 16), nn.Tanh())
        layers += (torch.nn.Linear(16, 8), nn.ReLU(), torch.nn.Linear(8, 1), nn.Sigmoid())
        model = torch.nn.Sequential(*layers).double()
        x = torch.randn(64, 4, dtype=torch.float64)
        y = (x.sum(1, keepdim=True) > 0).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(50):
            optimizer.zero_grad()
            loss = (model(x) - y).pow(2).mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert losses[1] < 0.2
