"""softmax, and row 14 of the notes."""

import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.rows import ROWS


@checked(ROWS["softmax"])
def test_generic(check):
    check()


def test_jacobian_of_the_notes():
    x = torch.randn(7, dtype=torch.float64)
    y = F.softmax(x, 0)
    jacobian = torch.autograd.functional.jacobian(lambda x: F.softmax(x, 0), x)
    torch.testing.assert_close(jacobian, torch.diag(y) - torch.outer(y, y), rtol=1e-13, atol=1e-16)
