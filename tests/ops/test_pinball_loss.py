"""pinball_loss, and row 16 of the notes."""

import numpy as np
import pytest
import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.losses import LOSSES, of_quantiles, positive
from torchnotes.testing.values import agree


@checked(LOSSES["pinball_loss"])
def test_generic(check):
    check()


@pytest.mark.parametrize("h", (0.0, 0.5))
def test_nan(h, dtype, device):
    f = torch.tensor([float("nan"), 1.0, float("inf")], dtype=dtype, device=device, requires_grad=True)
    y = torch.tensor([1.0, float("nan"), float("inf")], dtype=dtype, device=device)
    loss = F.pinball_loss(f, y, 0.3, reduction="none", smoothing=h)
    assert loss.isnan().all()
    assert torch.autograd.grad(loss.sum(), f)[0].isnan().all()


def test_subgradient_at_the_kink_is_that_of_the_upper_branch(dtype, device):
    for zero in (0.0, -0.0):
        f = torch.tensor([zero, 1.0, -7.0], dtype=dtype, device=device, requires_grad=True)
        y = torch.tensor([-zero, 1.0, -7.0], dtype=dtype, device=device)
        compiled = torch.compile(F.pinball_loss, backend="aot_eager")
        for op, target in ((F.pinball_loss, y), (compiled, y), (F.pinball_loss, y.double())):  # the last by torch
            loss = op(f, target, 0.3, reduction="sum")
            assert loss == 0
            (gradient,) = torch.autograd.grad(loss, f)
            torch.testing.assert_close(gradient, torch.full_like(f, -0.3))
    torch._dynamo.reset()


@pytest.mark.parametrize("n", (1, 31, 5000))
@pytest.mark.parametrize("quantiles", (1, 2, 3, 7, 16, 17, 40, 1500))
def test_any_number_of_quantiles(quantiles, n, dtype, device):
    """Fewer than the lanes of a SIMD vector, more, and more than a block of elements."""
    if quantiles * n > 200_000:
        return
    operation, taus = LOSSES["pinball_loss"], torch.linspace(0.01, 0.99, quantiles).tolist()
    for reduction in ("none", "mean"):
        options = {**of_quantiles(*taus), "weight": positive, "reduction": reduction}
        agree(operation, options, operation.sample(options, (n,), dtype, device))


def test_smoothed_loss_is_convex_and_converges():
    r = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    f = torch.zeros_like(r).requires_grad_()
    for tau in (0.1, 0.5, 0.9):
        rho = F.pinball_loss(f, r, tau, reduction="none")
        for h in (1.0, 0.1, 1e-3, 1e-9, 5e-324):
            smoothed = F.pinball_loss(f, r, tau, reduction="none", smoothing=h)
            assert ((smoothed - rho) >= -1e-16).all()
            assert ((smoothed - rho) <= h / 4 + 1e-15).all()
            (slope,) = torch.autograd.grad(smoothed.sum(), f)
            assert (slope.diff() <= 1e-15).all(), "convex: the slope rises with f and falls with r = y - f"
            assert slope.diff().abs().max() <= 1e-4 / (2 * h) + 1e-12 or h < 1e-4, "the slope has no jump"


def test_numpy_quantiles():
    f, y = torch.randn(2, 4)
    assert torch.equal(F.pinball_loss(f, y, np.float32(0.25)), F.pinball_loss(f, y, 0.25))


def test_bad_arguments():
    f, y, three = torch.randn(4, 3), torch.randn(4), (0.1, 0.5, 0.9)
    for bad in (0.0, 1.0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"quantiles must lie between 0 and 1, got {bad}"):
            F.pinball_loss(y, y, bad)
        with pytest.raises(ValueError, match=f"got {bad}"):
            F.pinball_loss(f, y, (0.5, bad, 0.2))
    for arguments, options, error, message in (
        ((f, y, 0.5), {}, ValueError, "Input size"),
        ((y, y, (0.1, 0.5)), {}, ValueError, "Input size"),
        ((f, y, (0.1, 0.5)), {}, ValueError, "Input size"),
        ((y, f, 0.5), {}, ValueError, "Input size"),
        ((f, y, three), {"weight": f}, ValueError, "Weight size"),
        *(((y, y), {"smoothing": bad}, ValueError, "smoothing") for bad in (-1.0, float("inf"), float("nan"))),
        ((None, y), {}, TypeError, "input"),
        ((y, [1.0]), {}, TypeError, "target"),
        ((y, y, "0.5"), {}, (TypeError, ValueError), None),
    ):
        with pytest.raises(error, match=message):
            F.pinball_loss(*arguments, **options)


# Row 16


def test_minimizer_is_the_empirical_quantile():
    y = torch.randn(101, dtype=torch.float64)
    candidates = y.sort().values
    for tau in (0.05, 0.25, 0.5, 0.77, 0.99):
        losses = F.pinball_loss(candidates[:, None].expand(-1, 101), y.expand(101, -1), tau, reduction="none").mean(1)
        assert candidates[losses.argmin()] == torch.quantile(y, tau, interpolation="higher")


def test_derivative_of_the_expected_loss_is_the_distribution_function_minus_tau():
    y = torch.randn(1000, dtype=torch.float64)
    for f in (-1.0, 0.0, 0.5):
        prediction = torch.full((), f, dtype=torch.float64, requires_grad=True)
        loss = F.pinball_loss(prediction.expand(1000), y, 0.3)
        torch.testing.assert_close(torch.autograd.grad(loss, prediction)[0], (y < f).double().mean() - 0.3)


def test_quantile_regression_agrees_with_statsmodels():
    statsmodels = pytest.importorskip("statsmodels.api")
    x = torch.cat((torch.ones(300, 1), torch.randn(300, 2)), 1).double()
    y = x @ torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64) + (1 + x[:, 1].abs()) * torch.randn(300).double()
    taus = (0.1, 0.5, 0.9)
    w = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    for h in (1.0, 0.1, 0.01, 1e-3):  # converges to the loss itself
        optimizer = torch.optim.LBFGS([w], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def closure(optimizer=optimizer, h=h):
            optimizer.zero_grad()
            loss = F.pinball_loss(x @ w, y, taus, smoothing=h)
            loss.backward()
            return loss

        optimizer.step(closure)
    fits = [statsmodels.QuantReg(y.numpy(), x.numpy()).fit(q=tau, max_iter=5000, p_tol=1e-9).params for tau in taus]
    theirs = torch.stack([torch.from_numpy(fit) for fit in fits], 1)
    torch.testing.assert_close(w.detach(), theirs, rtol=0, atol=5e-3)
    assert F.pinball_loss(x @ w, y, taus) <= F.pinball_loss(x @ theirs, y, taus) * (1 + 1e-4)
