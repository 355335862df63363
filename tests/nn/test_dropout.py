"""The dropout modules, compared with torch's, the notes and the papers."""

import copy
import itertools
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import torchnotes.functional as F
from torchnotes import nn

MODULES = (
    (nn.Dropout(), partial(F.dropout, p=0.5), "Dropout(p=0.5, inplace=False)"),
    (nn.Dropout(0.2, True), partial(F.dropout, p=0.2), "Dropout(p=0.2, inplace=True)"),
    (nn.GaussianDropout(), partial(F.gaussian_dropout, p=0.5), "GaussianDropout(p=0.5, inplace=False)"),
    (nn.GaussianDropout(0.2), partial(F.gaussian_dropout, p=0.2), "GaussianDropout(p=0.2, inplace=False)"),
    (
        nn.GaussianDropout(sigma=0.3, inplace=True),
        partial(F.gaussian_dropout, sigma=0.3),
        "GaussianDropout(sigma=0.3, inplace=True)",
    ),
)


@pytest.mark.parametrize(("layer", "function", "shown"), MODULES, ids=[shown for *_, shown in MODULES])
def test_modules_call_the_functions(layer, function, shown):
    assert repr(layer) == shown
    x = torch.randn(1000, requires_grad=True)
    for module in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.manual_seed(1)
        expected = function(x)
        torch.manual_seed(1)
        given = x * 1
        y = module(given)
        assert torch.equal(y, expected)
        assert (y is given) == layer.inplace
        assert y.grad_fn.name() == f"{type(layer).__name__}Backward"
    assert copy.deepcopy(layer).eval()(x) is x


def test_rates():
    x = torch.randn(1000)
    assert nn.GaussianDropout(0.0)(x) is x
    layer = nn.GaussianDropout(0.2)
    layer.p = 0.0  # as a schedule would
    assert layer(x) is x
    with pytest.raises(ValueError, match="dropout probability"):
        nn.Dropout(1.5)
    for bad in ({"p": -0.1}, {"p": 1}, {"p": 1.5}, {"p": math.nan}, {"sigma": -1.0}, {"p": 0.1, "sigma": 0.1}):
        for make in (nn.GaussianDropout, lambda **bad: nn.GaussianDropoutLinear(2, 2, **bad)):
            with pytest.raises(ValueError, match="Gaussian dropout"):
                make(**bad)


def test_the_linear_layer_has_the_mean_and_variance_of_dropout_on_its_input():
    """W (d x): mean W x, variance sigma^2 (W^2)(x^2), and normal."""
    n, sigma = 200_000, 0.6
    torch.manual_seed(0)
    layer = nn.GaussianDropoutLinear(5, 2, sigma=sigma, dtype=torch.float64)
    x = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    sampled = layer(x.expand(n, 5)).detach()
    before = torch.nn.functional.linear(F.gaussian_dropout(x.expand(n, 5), sigma=sigma), layer.weight, layer.bias)
    mean = layer.weight @ x + layer.bias
    variance = sigma**2 * (layer.weight.square() @ x.square())
    for z in (sampled, before.detach()):
        assert ((z.mean(0) - mean).abs() < 4.5 * (variance / n).sqrt()).all()
        assert ((z.var(0) / variance - 1).abs() < 4.5 * (2 / n) ** 0.5).all()
    for o in range(2):
        standard = ((sampled[:, o] - mean[o]) / variance[o].sqrt()).detach().numpy()
        assert stats.kstest(standard, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(sampled.T)[0, 1]) < 4.5 / math.sqrt(n), "the noise of outputs is independent"


@pytest.mark.parametrize(
    "layer",
    (
        nn.GaussianDropoutLinear(3, 4, p=0.3, activation="tanh", dtype=torch.float64),
        nn.VariationalDropout(3, p=0.3, dtype=torch.float64),
    ),
    ids=lambda layer: type(layer).__name__,
)
def test_gradient_is_that_of_the_sample(layer):
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def sample(x, *parameters):
        torch.manual_seed(5)
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sample, (x, *parameters))
    assert torch.autograd.gradgradcheck(sample, (x, *parameters))


def test_a_zero_input_of_the_linear_layer_gives_the_bias_and_a_finite_gradient():
    """There is no noise, and the derivative of the square root is infinite."""
    for activation, bias in ((None, True), ("tanh", True), (None, False)):
        layer = nn.GaussianDropoutLinear(3, 4, bias, p=0.3, activation=activation)
        x = torch.randn(3, 3)
        x[1] = 0
        x[2] *= 1e-3  # little noise, but not zero
        x.requires_grad_()
        y = layer(x)
        expected = layer.bias if bias else torch.zeros(4)
        assert torch.equal(y[1], expected.tanh() if activation else expected)
        assert (y[::2] != layer.eval()(x)[::2]).all()
        y.sum().backward()
        assert x.grad.isfinite().all()
        assert layer.weight.grad.isfinite().all()
    assert (nn.VariationalDropout(3)(torch.zeros(2, 3)) == 0).all()


def test_the_linear_layer_without_noise_and_its_repr():
    layer = nn.GaussianDropoutLinear(3, 4, p=0.3, activation="relu", init="he")
    x = torch.randn(2, 3)
    expected = torch.relu(torch.nn.functional.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(layer.eval()(x), expected)
    assert "activation='relu', init='he', p=0.3" in repr(layer)
    quiet = nn.GaussianDropoutLinear(3, 4, sigma=0.0)
    torch.testing.assert_close(quiet(x), torch.nn.functional.linear(x, quiet.weight, quiet.bias))
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_variational_dropout_is_gaussian_dropout():
    n, p = 400_000, 0.3
    for layer in (nn.VariationalDropout(p=p), nn.VariationalDropout(2, p=p)):
        torch.testing.assert_close(layer.log_alpha.exp(), torch.full_like(layer.log_alpha, p / (1 - p)))
        noise = layer(torch.full((n, 2), 3.0)).detach().double() / 3
        assert ((noise.mean(0) - 1).abs() < 4.5 * math.sqrt(p / (1 - p) / n)).all()
        assert ((noise.var(0) / (p / (1 - p)) - 1).abs() < 4.5 * math.sqrt(2 / n)).all()
    assert layer.eval()(noise) is noise
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        nn.VariationalDropout(2)(torch.ones(1000, 2))
    assert sum(t.numel() for t in kept) < 1.2 * 2000, "the input, and no noise"


@pytest.mark.parametrize("log_alpha", (-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 8.0))
def test_the_divergence(log_alpha):
    """Compares with the integral E ln|1 + sqrt(alpha) n| - 1/2 ln alpha + (ln 2 + gamma)/2."""
    scale = math.exp(log_alpha / 2)
    pole = -1 / scale

    def integrand(n):
        return math.log(abs(1 + scale * n)) * stats.norm.pdf(n)

    pieces = sorted({-12.0, min(max(pole, -12.0), 12.0), 12.0})
    expectation = sum(integrate.quad(integrand, a, b, limit=200)[0] for a, b in itertools.pairwise(pieces))
    exact = expectation - log_alpha / 2 + (math.log(2) + np.euler_gamma) / 2
    layer = nn.VariationalDropout(3)
    torch.nn.init.constant_(layer.log_alpha, log_alpha)
    assert layer.kl().item() / 3 == pytest.approx(exact, abs=0.012)
    assert torch.autograd.grad(layer.kl(), layer.log_alpha)[0].max() < 0, "less noise costs more"


def test_the_divergence_has_the_constants_of_the_paper():
    """Molchanov, Ashukha and Vetrov, 2017: k_1, k_2, k_3 = 0.63576, 1.87320, 1.48695."""
    layer = nn.VariationalDropout(1, dtype=torch.float64)
    for log_alpha in (-1.0, 0.0, 2.0):
        torch.nn.init.constant_(layer.log_alpha, log_alpha)
        sigmoid = 1 / (1 + math.exp(-(1.87320 + 1.48695 * log_alpha)))
        expected = 0.63576 * (1 - sigmoid) + 0.5 * math.log1p(math.exp(-log_alpha))
        assert layer.kl().item() == pytest.approx(expected, rel=1e-12)


def test_bad_rates_of_variational_dropout():
    for p in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="rate of variational dropout"):
            nn.VariationalDropout(p=p)
    assert repr(nn.VariationalDropout(4, 0.2)) == "VariationalDropout(num_features=4, p=0.2)"
