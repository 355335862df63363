"""relu, and the first half of row 3 of the notes."""

import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.activations import ACTIVATIONS


@checked(ACTIVATIONS["relu"])
def test_generic(check):
    check()


def test_derivative_of_the_notes():
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-300, 3.0], dtype=torch.float64, requires_grad=True)
    y = F.relu(x)
    (first,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, torch.tensor([0, 0, 0, 1e-300, 3], dtype=torch.float64))
    assert torch.equal(first, torch.tensor([0, 0, 0, 1, 1], dtype=torch.float64))
