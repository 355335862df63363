"""tanh, and row 2 of the notes."""

import os

import numpy as np
import torch

import torchnotes.functional as F
from generic import checked
from torchnotes.testing.operations.activations import ACTIVATIONS


@checked(ACTIVATIONS["tanh"])
def test_generic(check):
    check()


def test_error_is_smaller_than_torchs():
    """torch's is 0.513 ulp with AVX2. Tables and rational functions are least accurate where their pieces meet."""
    low, high = torch.tensor([2.0**-14, 9.5]).view(torch.int32).tolist()
    x = torch.arange(low, high, 101, dtype=torch.int32).view(torch.float32)
    exact = torch.tanh(x.double())
    ulp = torch.ldexp(torch.ones_like(exact), torch.frexp(exact).exponent - 24)
    for sign in (1, -1):
        assert ((sign * F.tanh(sign * x).double() - exact).abs() / ulp).max() < 0.513


def test_error_of_doubles_is_no_larger_than_torchs():
    """torch's is 0.75 ulp with AVX2. The C library, which other kernels on the CPU call, errs by up to 2 ulp."""
    x = np.concatenate([scale * np.random.default_rng(0).random(20_000) for scale in (1e-3, 0.1, 0.4, 1, 4, 20)])
    exact = np.tanh(x.astype(np.longdouble))
    error = np.abs(F.tanh(torch.from_numpy(x)).numpy() - exact) / np.spacing(exact.astype(np.float64))
    calls_library = "TORCHNOTES_KERNELS" in os.environ or torch.backends.cpu.get_cpu_capability() == "DEFAULT"
    assert error.max() < (2.5 if calls_library else 0.75)


def test_special_values():
    for dtype in (torch.float32, torch.float64):
        least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # the least denormal number
        x = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, least, -3 * least, 1e30], dtype=dtype)
        y = F.tanh(x)
        assert y[0].isnan()
        assert torch.equal(y[1:3], torch.tensor([1.0, -1.0], dtype=dtype))
        assert torch.equal(y[3:7], x[3:7])
        assert torch.equal(y[3:5].signbit(), torch.tensor([False, True]))
        assert y[7] == 1


def test_derivatives_of_the_notes():
    x = (torch.arange(-5000, 5001, dtype=torch.float64) / 1000).requires_grad_()
    t = F.tanh(x)
    e = torch.exp(2 * x.detach())
    (first,) = torch.autograd.grad(t.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(t.detach(), (e - 1) / (e + 1), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(first, 4 * e / (e + 1) ** 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(first, 1 - t**2, rtol=1e-10, atol=0)
    torch.testing.assert_close(second, -2 * t * (1 - t**2), rtol=1e-10, atol=1e-16)


def test_largest_derivative_is_1_and_not_a_half():
    x = (torch.arange(-5000, 5001, dtype=torch.float64) / 1000).requires_grad_()
    (first,) = torch.autograd.grad(F.tanh(x).sum(), x)
    assert first.max() == first[5000] == 1
    assert x[5000] == 0
