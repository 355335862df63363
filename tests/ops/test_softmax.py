"""softmax, and row 14 of the notes."""

import torch

import torchnotes.functional as F
from checks import OpCase
from softmax_checks import SoftmaxChecks, log_softmax


class TestSoftmax(SoftmaxChecks):
    case = OpCase(
        op=lambda x, dim=-1, **keywords: F.softmax(x, dim, **keywords),
        builtin=lambda x, dim=-1, **keywords: torch.nn.functional.softmax(x, dim, **keywords),
        reference=lambda x, dim=-1: log_softmax(x, dim).exp(),
        opinfo="softmax",
        kernels={"softmax": 1, "softmax_backward": 2},
        numbers=(1,),
    )


def test_the_jacobian_of_the_notes():
    x = torch.randn(7, dtype=torch.float64)
    y = F.softmax(x, 0)
    jacobian = torch.autograd.functional.jacobian(lambda x: F.softmax(x, 0), x)
    torch.testing.assert_close(jacobian, torch.diag(y) - torch.outer(y, y), rtol=1e-13, atol=1e-16)
