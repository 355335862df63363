"""gaussian_dropout, and row 19 of the notes."""

import math

import numpy as np
import pytest
import torch

import torchnotes.functional as F
from checks import outcome
from generic import checked
from philox import KEY, normals
from torchnotes.testing.operations.random import NOISES


@checked(NOISES["gaussian_dropout"])
def test_generic(check):
    check()


def test_noise_matches_the_formula():
    for dtype in (torch.float32, torch.float64):
        y = F.gaussian_dropout(torch.ones(5000, dtype=dtype), sigma=0.5, generator=KEY)
        expected = 1 + 0.5 * normals(KEY, 5000, dtype)
        np.testing.assert_allclose(y.double().numpy(), expected, rtol=0, atol=16 * torch.finfo(dtype).eps)


def test_variance_of_a_rate_is_that_of_dropout():
    x = torch.ones(1000)
    for p in (0.1, 0.5, 0.9):
        by_rate = F.gaussian_dropout(x, p, generator=KEY)
        assert torch.equal(by_rate, F.gaussian_dropout(x, sigma=math.sqrt(p / (1 - p)), generator=KEY))
    assert torch.equal(F.gaussian_dropout(x, generator=KEY), F.gaussian_dropout(x, 0.5, generator=KEY))


def test_rejects_invalid_rates_and_standard_deviations():
    x = torch.ones(3)
    for keywords in (
        {"p": 1},
        {"p": 1.0},
        {"p": -0.1},
        {"p": math.nan},
        {"sigma": -0.1},
        {"sigma": math.inf},
        {"sigma": math.nan},
        {"p": 0.1, "sigma": 0.1},
        {"p": 0.0, "sigma": 0.0},
    ):
        assert outcome(F.gaussian_dropout, x, **keywords, inplace=True)[0] is ValueError
    for keywords in ({"p": "x"}, {"sigma": "x"}):
        assert outcome(F.gaussian_dropout, x, **keywords)[0] is TypeError
    assert torch.equal(x, torch.ones(3))


def test_a_proxy_is_recorded():
    for training in (True, False):
        traced = torch.fx.symbolic_trace(lambda x: F.gaussian_dropout(x, 0.3, training, generator=KEY) * 2)  # noqa: B023
        x = torch.randn(30)
        assert torch.equal(traced(x), 2 * F.gaussian_dropout(x, 0.3, training, generator=KEY))


def test_noise_of_complex_inputs_is_real():
    z = torch.complex(torch.ones(100), 2 * torch.ones(100))
    y = F.gaussian_dropout(z, 0.2)
    torch.testing.assert_close(y.imag, 2 * y.real)
    assert y.real.std() > 0.2


# Row 19 of the notes: d_k ~ N(1, sigma^2), J = 1/2 (t - sum_k d_k w_k x_k)^2


def draws_of_the_loss(sigma: float, n: int):
    x = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0], dtype=torch.float64)
    w = torch.tensor([0.8, 0.3, -1.5, 0.2, 2.0], dtype=torch.float64, requires_grad=True)
    t = 0.7
    d_x = F.gaussian_dropout(x.expand(n, 5), sigma=sigma, generator=KEY)
    return x, w, t, d_x, 0.5 * (t - d_x @ w) ** 2


@pytest.mark.parametrize("sigma", (0.1, 0.5, 1.0))
def test_expected_loss_is_that_without_noise_plus_a_penalty(sigma):
    n = 400_000
    x, w, t, _, losses = draws_of_the_loss(sigma, n)
    penalty = F.gaussian_dropout_penalty(x, w, sigma)
    torch.testing.assert_close(penalty, 0.5 * sigma**2 * (w**2 * x**2).sum())
    expected = 0.5 * (t - w @ x) ** 2 + penalty
    error = (losses.mean() - expected).item()
    assert abs(error) < 4.5 * losses.std().item() / math.sqrt(n)
    assert penalty.item() > 20 * losses.std().item() / math.sqrt(n), "the penalty is significant"


@pytest.mark.parametrize("sigma", (0.1, 0.5, 1.0))
def test_expected_gradient(sigma):
    n = 400_000
    x, w, t, d_x, _ = draws_of_the_loss(sigma, n)
    gradients = -(t - d_x @ w)[:, None] * d_x  # dJ/dw for each sample
    terms = w * x
    expected = -x * (t - terms * (sigma**2 + 1) - (terms.sum() - terms))
    deviation = gradients.std(0) / math.sqrt(n)
    assert ((gradients.mean(0) - expected).abs() <= 4.5 * deviation).all()
    # and it is the gradient of the expected loss
    (of_expectation,) = torch.autograd.grad(0.5 * (t - w @ x) ** 2 + F.gaussian_dropout_penalty(x, w, sigma), w)
    torch.testing.assert_close(of_expectation, expected.detach())


def test_penalty_of_a_layer_is_one_value_per_row():
    x, w = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    expected = torch.stack([sum(0.5 * 0.3**2 * (w[o] ** 2 * x**2).sum(-1) for o in range(2))])[0]
    torch.testing.assert_close(F.gaussian_dropout_penalty(x, w, 0.3), expected)
    assert torch.autograd.gradcheck(
        F.gaussian_dropout_penalty, (x.requires_grad_(), w.requires_grad_(), torch.tensor(0.3, dtype=torch.float64))
    )
