"""binary_cross_entropy_with_logits, and row 13 of the notes."""

import pytest
import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.losses import LOSSES

inf = float("inf")


@checked(LOSSES["binary_cross_entropy_with_logits"])
def test_generic(check):
    check()


def test_ignored_elements_have_no_effect(dtype, device):
    y = torch.tensor([1.0, -100, 0, -100, -100], dtype=dtype, device=device)
    w = torch.tensor([1.0, float("nan"), 2.0, 1.0, float("inf")], dtype=dtype, device=device)
    for bad in (float("nan"), float("inf"), float("-inf"), 1e4):
        x = torch.tensor([0.5, bad, -0.5, bad, 3.0], dtype=dtype, device=device, requires_grad=True)
        for weight in (None, w):
            for target in (y, y.clone().requires_grad_()):  # the kernel, and the composite
                options = dict(weight=weight, ignore_index=-100)
                loss = F.binary_cross_entropy_with_logits(x, target, **options)
                rest = None if weight is None else weight[::2][:2]
                expected = F.binary_cross_entropy_with_logits(x[[0, 2]], y[[0, 2]], rest)
                torch.testing.assert_close(loss, expected)
                assert torch.autograd.grad(loss, x)[0][[1, 3, 4]].tolist() == [0, 0, 0]


def test_mean_over_no_elements_is_nan_with_gradient_zero(device):
    x = torch.randn(3, device=device, requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, torch.full_like(x, -1), ignore_index=-1)
    assert loss.isnan()
    assert torch.autograd.grad(loss, x)[0].tolist() == [0, 0, 0]


def test_infinite_logits(dtype, device):
    """Like torch, except where torch computes inf - inf although the loss is infinite."""
    x = torch.tensor([inf, inf, inf, -inf, -inf, -inf], dtype=dtype, device=device, requires_grad=True)
    y = torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0, 0.5], dtype=dtype, device=device)
    loss = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    expected = torch.tensor([inf, torch.nan, inf, torch.nan, inf, inf], dtype=dtype, device=device)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    gradient = torch.tensor([1.0, 0.0, 0.5, 0.0, -1.0, -0.5], dtype=dtype, device=device)
    assert torch.equal(torch.autograd.grad(loss.sum(), x)[0], gradient)


def test_rejects_invalid_label_smoothing():
    x = torch.ones(2)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(RuntimeError, match="label_smoothing must be between"):
            F.binary_cross_entropy_with_logits(x, x, label_smoothing=bad)


# Row 13: logistic regression, y^ = s(w x + b), E the sum of the cross-entropies.


@pytest.fixture
def problem():
    x = torch.randn(200, 4, dtype=torch.float64)
    w = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    return x, (torch.rand(200, dtype=torch.float64) < torch.sigmoid(x @ w + 0.3)).double()


def energy(w, x, y):
    """E as a function of the weights, the last of which is the bias."""
    return F.binary_cross_entropy_with_logits(x @ w[:-1] + w[-1], y, reduction="sum")


def test_gradient_of_the_notes(problem):
    x, y = problem
    w = torch.randn(5, dtype=torch.float64)
    residual = torch.sigmoid(x @ w[:-1] + w[-1]) - y
    expected = torch.cat((residual @ x, residual.sum()[None]))
    torch.testing.assert_close(torch.func.grad(energy)(w, x, y), expected)


def test_hessian_of_the_notes_is_positive_semidefinite(problem):
    x, y = problem
    ones = torch.ones(200, 1, dtype=torch.float64)
    for scale in (0.1, 1, 20):
        w = scale * torch.randn(5, dtype=torch.float64)
        p = torch.sigmoid(x @ w[:-1] + w[-1])
        hessian = torch.func.hessian(energy)(w, x, y)
        inputs = torch.cat((x, ones), 1)
        torch.testing.assert_close(hessian, inputs.T * (p * (1 - p)) @ inputs)
        assert torch.linalg.eigvalsh(hessian).min() > -1e-9 * hessian.norm()


def test_gradient_descent_reaches_the_global_minimum(problem):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = problem
    fitted = linear_model.LogisticRegression(C=float("inf"), tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    best = torch.cat((torch.from_numpy(fitted.coef_[0]), torch.from_numpy(fitted.intercept_)))
    for start in (torch.zeros(5, dtype=torch.float64), 3 * torch.randn(5, dtype=torch.float64)):
        w = start.requires_grad_()
        for _ in range(4000):
            (gradient,) = torch.autograd.grad(energy(w, x, y), w)
            w = (w - 0.01 * gradient).detach().requires_grad_()  # 1/L, where L <= |x|^2/4 is the largest curvature
        torch.testing.assert_close(w.detach(), best, rtol=1e-4, atol=1e-5)
        assert energy(w, x, y) <= energy(best, x, y) * (1 + 1e-9)


def test_infinite_results_are_not_nan():
    x, y = torch.tensor([-1e3, -200.0, 200.0]), torch.tensor([2.0, 2.0, 1.0])
    for weight in (None, torch.ones(3)):
        loss = F.binary_cross_entropy_with_logits(x, y, weight, pos_weight=torch.tensor(3e38), reduction="none")
        assert loss.tolist() == [inf, inf, 0]
