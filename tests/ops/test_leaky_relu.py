"""leaky_relu, and the second half of row 3 and row 4 of the notes."""

import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.activations import ACTIVATIONS


@checked(ACTIVATIONS["leaky_relu"])
def test_generic(check):
    check()


def test_derivative_of_the_notes():
    for a in (0.1, 0.5, 0.99):
        x = torch.tensor([-2.0, -0.0, 0.0, 1e-300, 3.0], dtype=torch.float64, requires_grad=True)
        y = F.leaky_relu(x, a)
        (first,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(y, torch.maximum(a * x, x))
        assert torch.equal(first, torch.tensor([a, a, a, 1, 1], dtype=torch.float64))


def test_in_place_with_a_negative_slope_is_exact():
    """torch rejects this backward pass."""
    x = torch.tensor([-2.0, -0.5, 0.4, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.leaky_relu(x * 1, -0.3, inplace=True), x)
