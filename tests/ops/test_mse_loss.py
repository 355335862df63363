"""mse_loss, and row 12 of the notes."""

import itertools

import pytest
import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.losses import LOSSES


@checked(LOSSES["mse_loss"])
def test_generic(check):
    check()


inf = float("inf")


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


def test_deprecated_reductions():
    x, y = torch.randn(2, 4)
    for size_average, reduce in ((True, True), (False, True), (True, False)):
        with pytest.warns(UserWarning, match="deprecated"):
            ours = F.mse_loss(x, y, size_average, reduce)
        with pytest.warns(UserWarning, match="deprecated"):
            theirs = torch.nn.functional.mse_loss(x, y, size_average, reduce)
        torch.testing.assert_close(ours, theirs)


def test_subnormal_gradients_are_rounded_once():
    for difference, g in ((3e6, 1e-37), (1e30, 1e-41), (inf, 4.8e-38), (3.0, 1e38)):
        results = []
        for dtype in (torch.float32, torch.float64):
            x = torch.zeros(100_000, dtype=dtype)
            x[0] = difference
            x.requires_grad_()
            F.mse_loss(x, torch.zeros_like(x)).backward(torch.tensor(g).to(dtype))
            results.append(x.grad)
        torch.testing.assert_close(results[0], results[1].float(), rtol=2e-7, atol=0)


@pytest.mark.parametrize("wanted", ((True, False), (True, True)), ids=("input", "input and target"))
@pytest.mark.parametrize("kind", (torch.float32, torch.bfloat16), ids=str)
def test_large_values_overflow_no_earlier_than_in_torch(wanted, kind):
    most = 3e38
    cases = (  # x - y, weight, gradient of each element
        (most, None, 0.25),
        (1.0, most, 0.25),
        (0.25, None, most),
        (1e18, 1e30, 1e-20),
        (1e-18, most, 1.0),
    )
    for difference, weight, g in cases:
        for reduction, create_graph in itertools.product(("none", "sum", "mean"), (False, True)):
            results = []
            for function in (F.mse_loss, torch.nn.functional.mse_loss):
                x = torch.full((4, 5), difference, dtype=kind, requires_grad=wanted[0])
                y = torch.zeros(4, 5, dtype=kind, requires_grad=wanted[1])
                w = None if weight is None else torch.full((4, 5), weight, dtype=kind)
                loss = function(x, y, reduction=reduction, weight=w)
                inputs = [t for t in (x, y) if t.requires_grad]
                results.append(torch.autograd.grad(loss, inputs, torch.full_like(loss, g), create_graph=create_graph))
            for ours, theirs in zip(*results, strict=True):
                assert ours[theirs.isfinite()].isfinite().all()
