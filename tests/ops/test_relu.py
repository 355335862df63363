"""relu, and the first half of row 3 of the notes."""

import torch

import torchnotes.functional as F
from checks import OpCase
from inplace_checks import InplaceChecks


class TestReLU(InplaceChecks):
    case = OpCase(
        op=F.relu,
        builtin=torch.nn.functional.relu,
        reference=lambda x: torch.where(x <= 0, 0, x),
        opinfo="nn.functional.relu",
        kernels={"relu": 1, "relu_": 1, "relu_backward": 2},
        kink=0.0,
        inplace=True,
    )


def test_the_derivative_of_the_notes():
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-300, 3.0], dtype=torch.float64, requires_grad=True)
    y = F.relu(x)
    (first,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, torch.tensor([0, 0, 0, 1e-300, 3], dtype=torch.float64))
    assert torch.equal(first, torch.tensor([0, 0, 0, 1, 1], dtype=torch.float64))
