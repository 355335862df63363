"""Tests of softmax, log_softmax and cross_entropy that the generic checks do not cover."""

import itertools

import numpy as np
import pytest
import torch

from checks import values
from torchnotes.testing.layouts import LAYOUTS
from torchnotes.testing.operation import Operation, cast, described
from torchnotes.testing.operations import OPERATIONS
from torchnotes.testing.operations.cross_entropy import NONE, probabilities_with_gradient
from torchnotes.testing.operations.rows import ROWS
from torchnotes.testing.values import agree, output_of

OF_ROWS = (
    ("softmax", {}),
    ("log_softmax", {}),
    ("cross_entropy", NONE),
    ("cross_entropy", {**NONE, "label_smoothing": 0.1}),
    ("cross_entropy", {**NONE, "target": probabilities_with_gradient}),
)
BOTH = pytest.mark.parametrize("operation", ROWS.values(), ids=ROWS)


@BOTH
@pytest.mark.kernels
def test_every_layout_along_every_dimension(operation: Operation, dtype, device):
    for layout, dim in itertools.product(LAYOUTS, range(-4, 4)):
        x = layout(values((2, 3, 5, 4), dtype, device)).requires_grad_()
        agree(operation, {"dim": dim}, {"input": x, "dim": dim})


@pytest.mark.kernels
@pytest.mark.parametrize(("name", "options"), OF_ROWS, ids=[f"{name} {described(each)}" for name, each in OF_ROWS])
def test_error_of_rows_of_every_kind_is_no_larger_than_torchs(name, options, dtype, device):
    """Logits of every magnitude up to 1e4, with a large mean, and with one finite logit."""
    if dtype == torch.float64:  # there is no wider reference
        return
    operation, ordinary = OPERATIONS[name], torch.randn(200, 1000, dtype=torch.float64)
    masked = torch.full((4, 1000), -torch.inf, dtype=torch.float64)
    masked[range(4), (0, 500, 998, 999)] = torch.tensor([0.0, 5.0, -1e4, 1e4], dtype=torch.float64)
    for rows in (ordinary, 100 * ordinary, ordinary + 1e4, ordinary - 1e4, masked):
        sample = operation.sample(options, tuple(rows.shape)) | {"input": rows.requires_grad_()}
        sample = cast(sample, dtype, device)
        g = torch.randn(output_of(operation, sample).shape).to(device, dtype)
        exact = operation.results(operation.reference, operation.widened(sample), g.double())
        ours, theirs = (operation.results(f, sample, g) for f in (operation.function, operation.builtin))
        for result, true in exact.items():
            error, builtins = ((got[result].double() - true).abs().nan_to_num() for got in (ours, theirs))
            one_rounding = torch.finfo(dtype).eps * true.abs().nan_to_num(neginf=0, posinf=0).max()
            # The largest of 200,000 errors is random.
            assert error.max() <= 1.25 * builtins.max() + one_rounding, result
            assert error.mean() <= 1.1 * builtins.mean() + (1e-3 if error.numel() > 1000 else 1e-2) * one_rounding


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


# Of one element; of a few, interleaved; one vector that overlaps another; four, of which the last overlaps
INTERLEAVED = ((40, 1), (40, 3), (2, 33, 7), (3, 20, 17), (20, 49), (5, 6, 63), (2, 3, 65), (5000, 3))


@BOTH
@pytest.mark.kernels
@pytest.mark.parametrize("shape", INTERLEAVED, ids=str)
def test_interleaved_rows(operation: Operation, shape, dtype, device):
    for dim in range(len(shape)):
        x = torch.randn(shape, dtype=torch.float64).to(device, dtype).requires_grad_()
        agree(operation, {"dim": dim}, {"input": x, "dim": dim})


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
