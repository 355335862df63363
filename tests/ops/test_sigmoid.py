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
