"""SGD"""

import numpy as np
import pytest
import torch

from optimizer_checks import SIXTEEN_BITS, OptimizerChecks
from philox import element_bits
from torchnotes.optim import SGD
from torchnotes.testing.optimizers import OPTIMIZERS, copies, give_gradients, parameters


class TestSGD(OptimizerChecks):
    case = OPTIMIZERS["SGD"]
    bits = ("33a776be1f895184", "f040008305c0474e")


@pytest.mark.parametrize("short", SIXTEEN_BITS, ids=str)
def test_rounding_to_nearest_even_for_every_16_bit_number(short, device):
    w = torch.arange(-(2**15), 2**15).to(torch.int16).view(short).to(device)
    half_a_place = torch.finfo(short).eps / 2 * torch.exp2(w.float().abs().log2().floor())
    for grad in (half_a_place.to(short), -half_a_place.to(short), torch.randn(w.shape).to(device, short)):
        p = w.clone().requires_grad_()
        p.grad = grad
        SGD([p], lr=1.0).step()
        expected = (w.float() - grad.float()).to(short)
        assert torch.equal(p.isnan(), expected.isnan())
        assert torch.equal(p[~p.isnan()], expected[~p.isnan()])


@pytest.mark.parametrize("short", SIXTEEN_BITS, ids=str)
def test_stochastic_rounding_uses_the_words_of_the_parameter_and_the_step(short, device):
    """Rounds up if the random fraction is less than the truncated part in ulp. The reference is numpy."""
    n, n_tiny = 3000, 1000
    least = torch.finfo(short).smallest_normal * torch.finfo(short).eps  # subnormal numbers are multiples of it
    special = torch.tensor([1e-7, -1e-7, 3e-6, 6e-5, 0.0, 1e4, torch.inf, 1, -1, 2])
    start = torch.cat((torch.randn(n - n_tiny - 10), special, torch.randint(-300, 300, (n_tiny,)) * least))
    params = [torch.zeros(5, dtype=short, device=device), start.to(device, short)]
    optimizer = SGD([p.requires_grad_() for p in params], lr=2.0**-6, rounding="stochastic")
    bits = 16 if short == torch.bfloat16 else 13  # that float32 has in addition
    for step in (1, 2):
        x = params[1].detach().cpu().float()
        grad = torch.cat((torch.randn(n - n_tiny) / 2, torch.randint(-40, 40, (n_tiny,)) * least)).to(short)
        params[0].grad = torch.zeros_like(params[0])
        params[1].grad = grad.to(device)
        optimizer.step()
        x = (x - grad.float() * 2.0**-6).numpy()
        (words,) = element_bits(torch.tensor([1, step]), n, torch.float32)
        tiny = (np.abs(x) < 2.0**-14) & (short == torch.float16)  # where an ulp of float16 is 2^-24
        with np.errstate(invalid="ignore"):
            exponents = np.maximum(
                np.where(tiny, -24, np.frexp(x)[1] - 24 + bits), -133
            )  # the smallest bfloat16 is 2^-133
            places = np.ldexp(np.abs(x).astype(np.float64), -exponents)
            few = np.where(tiny, 24, bits)  # as many random bits as are truncated
            u = np.floor(words * 2.0 ** (few - 32)) * 2.0**-few
            cut = places - np.floor(places)
            whole = np.where(tiny, np.floor(places) + (u < cut), np.floor(places + u))
        expected = np.where(np.isfinite(x), np.sign(x) * np.ldexp(whole, exponents), x)
        assert np.array_equal(params[1].detach().cpu().double().numpy(), expected)


@pytest.mark.parametrize("dampening", (0.0, 0.4))
def test_a_skipped_step_does_not_count_as_the_first(dampening, device):
    """torch's fused step initializes the momentum from the infinite gradient, and dampens the first finite one."""
    options = dict(lr=0.01, momentum=0.9, dampening=dampening)
    params = parameters([(3,), (4,)], torch.float64, device)
    others = copies(params)
    ours, theirs = SGD(params, **options), torch.optim.SGD(others, **options)
    ours.grad_scale = torch.ones((), device=device)
    for found_inf in (1.0, 1.0, 0.0, 1.0, 0.0):
        ours.found_inf = torch.tensor(found_inf, device=device)
        give_gradients(params, others)
        ours.step()
        if not found_inf:
            theirs.step()
        torch.testing.assert_close(params, others)
    params.append(torch.ones(2, dtype=torch.float64, device=device, requires_grad=True))  # a new parameter
    others.append(params[-1].detach().clone().requires_grad_())
    ours.add_param_group({"params": params[-1:]})
    theirs.add_param_group({"params": others[-1:]})
    ours.found_inf = torch.tensor(0.0, device=device)
    give_gradients(params, others)
    ours.step()
    theirs.step()
    torch.testing.assert_close(params, others)


@pytest.mark.parametrize("momentum", (np.nan, np.inf, -np.inf))
def test_first_step_does_not_depend_on_momentum(momentum):
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    optimizer = SGD([p], lr=0.5)
    optimizer.param_groups[0]["momentum"] = momentum
    optimizer.step()
    assert p.tolist() == [0.5] * 3


def test_gradient_descent_on_a_smooth_function():
    """Row 24: with step 1/L, f(t+1) - f(t) <= -|grad|^2 / 2L, and min_t |grad|^2 <= 2L (f(0) - f*) / T."""
    n, T = 30, 200
    points = torch.randn(200, n, dtype=torch.float64)
    signs = torch.randint(2, (200,)) * 2.0 - 1
    L = torch.linalg.eigvalsh(points.T @ points)[-1].item() / 4  # logistic losses have a curvature of at most 1/4
    (w,) = params = parameters([(n,)], torch.float64)
    optimizer = SGD(params, lr=1 / L)
    losses, squares = [], []
    for _ in range(T):
        optimizer.zero_grad()
        loss = torch.nn.functional.softplus(-signs * (points @ w)).sum()
        loss.backward()
        losses.append(loss.item())
        squares.append(w.grad.square().sum().item())
        optimizer.step()
    for before, after, square in zip(losses, losses[1:], squares, strict=False):
        assert after - before <= -square / (2 * L) * (1 - 1e-9) + 1e-12 * before
    descended = losses[0] - losses[-1]  # less than f(0) - f*, so that the bound is tighter than the notes'
    assert min(squares[:-1]) <= 2 * L * descended / (T - 1) * (1 + 1e-9)


def test_momentum():
    """Row 25: V <- rho V + eta grad, W <- W - gamma V, rho = 0.9; eta gamma is torch's learning rate."""
    rho, eta, gamma = 0.9, 0.3, 0.1
    (w,) = params = parameters([(5,)], torch.float64)
    W, V = w.detach().clone(), torch.zeros(5, dtype=torch.float64)
    optimizer = SGD(params, lr=eta * gamma, momentum=rho)
    for _ in range(20):
        give_gradients(params)
        V = rho * V + eta * w.grad
        W = W - gamma * V
        optimizer.step()
        torch.testing.assert_close(w.detach(), W, rtol=1e-13, atol=1e-14)
