"""sigmoid, and rows 1 and 4 of the notes."""

import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.activations import ACTIVATIONS


@checked(ACTIVATIONS["sigmoid"])
def test_generic(check):
    check()


def test_derivatives_of_the_notes():
    x = (torch.arange(-5000, 5001, dtype=torch.float64) / 625).requires_grad_()
    s = F.sigmoid(x)
    (first,) = torch.autograd.grad(s.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(first, s * (1 - s), rtol=1e-14, atol=0)
    torch.testing.assert_close(second, s * (1 - s) * (1 - 2 * s), rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(second, 2 * s**3 - 3 * s**2 + s, rtol=1e-9, atol=1e-15)
    assert torch.equal(second > 0, s < 0.5)
    assert first.max() == first[5000] == 0.25  # at 0, exactly
    assert x[5000] == 0


def test_derivative_vanishes_at_both_infinities():
    x = torch.tensor([-1e4, -800.0, 800.0, 1e4, float("inf"), float("-inf")], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(F.sigmoid(x).sum(), x)
    assert torch.equal(first, torch.zeros(6, dtype=torch.float64))


def test_second_derivative_at_0_does_not_overflow_for_large_gradients():
    x = torch.zeros(1, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.sigmoid(x), x, torch.full((1,), 1e38), create_graph=True)
    assert torch.autograd.grad(gradient, x, torch.full((1,), 10.0))[0] == 0
