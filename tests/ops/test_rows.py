"""Tests of softmax and log_softmax that the generic checks do not cover."""

import itertools

import numpy as np
import pytest
import torch

from checks import rows_of_every_kind, values
from torchnotes.testing.layouts import LAYOUTS
from torchnotes.testing.operation import Operation
from torchnotes.testing.operations.rows import ROWS
from torchnotes.testing.values import agree

BOTH = pytest.mark.parametrize("operation", ROWS.values(), ids=ROWS)


@BOTH
@pytest.mark.kernels
def test_every_layout_along_every_dimension(operation: Operation, dtype, device):
    for layout, dim in itertools.product(LAYOUTS, range(-4, 4)):
        x = layout(values((2, 3, 5, 4), dtype, device)).requires_grad_()
        agree(operation, {"dim": dim}, {"input": x, "dim": dim})


@BOTH
@pytest.mark.kernels
def test_error_of_rows_with_a_large_mean_is_no_larger_than_torchs(operation: Operation, dtype, device):
    if dtype == torch.float64:  # there is no wider reference
        return
    x = rows_of_every_kind().to(dtype)
    grad = torch.randn_like(x)
    exact = operation.results(operation.reference, {"input": x.double().requires_grad_()}, grad.double())
    sample = {"input": x.to(device).requires_grad_(), "dim": -1}
    ours, theirs = (operation.results(f, sample, grad.to(device)) for f in (operation.function, operation.builtin))
    for name, true in exact.items():
        error, builtins = ((got[name].cpu().double() - true).abs().nan_to_num() for got in (ours, theirs))
        for kind in torch.arange(len(x)).split(20):
            # The largest of 20,000 errors is random.
            one_rounding = torch.finfo(dtype).eps * true[kind].abs().nan_to_num(neginf=0).max()
            assert error[kind].max() <= 1.25 * builtins[kind].max() + one_rounding
            assert error[kind].mean() <= 1.1 * builtins[kind].mean() + 1e-3 * one_rounding


@BOTH
@pytest.mark.kernels
@pytest.mark.parametrize("length", (3, 10, 17, 30, 48))
def test_error_of_short_rows_is_no_larger_than_torchs(operation: Operation, length, device):
    """Short rows are summed across SIMD vectors. The mean square error over many rows is accurate to a few percent."""
    x, grad = (torch.randn(4000, length) for _ in range(2))
    exact = operation.results(operation.reference, {"input": x.double().requires_grad_()}, grad.double())
    sample = {"input": x.to(device).requires_grad_(), "dim": -1}
    ours, theirs = (operation.results(f, sample, grad.to(device)) for f in (operation.function, operation.builtin))
    for name, true in exact.items():
        error, builtins = ((got[name].cpu().double() - true).square().mean().sqrt() for got in (ours, theirs))
        assert error <= 1.1 * builtins + 0.01 * torch.finfo(torch.float32).eps * true.abs().mean()


@BOTH
def test_dtype_argument(operation: Operation, device):
    x = values((3, 5), torch.bfloat16, device).requires_grad_()
    for dtype in (torch.float32, torch.float64):
        y, y_builtin = (f(x, 1, dtype=dtype) for f in (operation.function, operation.builtin))
        assert y.dtype == dtype
        torch.testing.assert_close(y, y_builtin)
        torch.testing.assert_close(*(torch.autograd.grad(z.pow(2).sum(), x) for z in (y, y_builtin)))
    integers = torch.arange(6, device=device).view(2, 3)
    y, y_builtin = (f(integers, 1, dtype=torch.float32) for f in (operation.function, operation.builtin))
    assert torch.equal(y, y_builtin)


@BOTH
def test_arguments_that_torch_rejects_or_ignores(operation: Operation, device):
    x = values((3, 5), torch.float32, device)
    for dtype in (np.ones(2), "float32", torch.int64):
        with pytest.raises(RuntimeError if isinstance(dtype, torch.dtype) else TypeError):
            operation.function(x, 1, dtype=dtype)
    assert torch.equal(operation.function(x, 1, _stacklevel=None), operation.function(x, 1))
    for dim in (2, -3):
        with pytest.raises(IndexError, match="Dimension out of range"):
            operation.function(x, dim)
    with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
        y = operation.function(x, None)
    assert torch.equal(y, operation.builtin(x, 1))
    assert caught[0].filename == __file__
