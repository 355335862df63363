"""tanh, and row 2 of the notes."""

import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.activations import ACTIVATIONS


@checked(ACTIVATIONS["tanh"])
def test_generic(check):
    check()


def test_derivatives_of_the_notes():
    x = (torch.arange(-5000, 5001, dtype=torch.float64) / 1000).requires_grad_()
    t = F.tanh(x)
    e = torch.exp(2 * x.detach())
    (first,) = torch.autograd.grad(t.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(t.detach(), (e - 1) / (e + 1), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(first, 4 * e / (e + 1) ** 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(first, 1 - t**2, rtol=1e-10, atol=0)
    torch.testing.assert_close(second, -2 * t * (1 - t**2), rtol=1e-10, atol=1e-16)


def test_largest_derivative_is_1_and_not_a_half():
    x = (torch.arange(-5000, 5001, dtype=torch.float64) / 1000).requires_grad_()
    (first,) = torch.autograd.grad(F.tanh(x).sum(), x)
    assert first.max() == first[5000] == 1
    assert x[5000] == 0
