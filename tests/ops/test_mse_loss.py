"""mse_loss, and row 12 of the notes."""

import pytest
import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.losses import LOSSES


@checked(LOSSES["mse_loss"])
def test_generic(check):
    check()


def test_worked_example_of_the_notes():
    """Row 5: y^ = 1/2, y = 1: L = 1/4, dL/dy^ = -1, dL/dy = 1."""
    prediction, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, 1.0))
    loss = F.mse_loss(prediction, y)
    assert loss == 0.25
    assert torch.autograd.grad(loss, (prediction, y)) == (-1, 1)


def test_root_of_the_sum_is_the_distance():
    x, y = torch.randn(2, 1000, dtype=torch.float64)
    torch.testing.assert_close(F.mse_loss(x, y, reduction="sum").sqrt(), torch.linalg.vector_norm(x - y))


def test_second_derivative_is_twice_the_weight():
    x, y, w = torch.randn(3, 5, dtype=torch.float64)
    hessian = torch.func.hessian(lambda x: F.mse_loss(x, y, reduction="sum", weight=w))(x)
    torch.testing.assert_close(hessian, torch.diag(2 * w))


def test_broadcasting_warns():
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    for a, b in ((x, y), (y, x)):
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        results = []
        for function in (F.mse_loss, torch.nn.functional.mse_loss):
            with pytest.warns(UserWarning, match="target size") as caught:
                loss = function(a, b)
            assert caught[0].filename == __file__ or function is not F.mse_loss
            results.append((str(caught[0].message), loss, *torch.autograd.grad(loss, (a, b))))
        assert results[0][0] == results[1][0]
        torch.testing.assert_close(results[0][1:], results[1][1:])
