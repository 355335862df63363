"""Tests of all elementwise losses that the generic checks do not cover."""

import dataclasses
import itertools

import pytest
import torch

from checks import outcome
from torchnotes.testing import derivatives
from torchnotes.testing.operation import Operation, described
from torchnotes.testing.operations.losses import LOSSES, positive

EVERY = pytest.mark.parametrize("operation", LOSSES.values(), ids=LOSSES)
OF_TORCH = [operation for operation in LOSSES.values() if operation.builtin]


@EVERY
@pytest.mark.kernels
def test_large_sums_are_accurate(operation: Operation, device):
    for reduction in ("mean", "sum"):
        sample = operation.sample({"reduction": reduction}, (3_000_001,), torch.float32, device)
        exact = operation.reference(sample["input"].double(), sample["target"].double(), reduction=reduction)
        torch.testing.assert_close(operation.function(**sample).double(), exact, rtol=3e-7, atol=0)


@EVERY
@pytest.mark.parametrize("check", derivatives.ALL, ids=lambda check: check.__name__)
def test_every_weight_has_derivatives(operation: Operation, check, device):
    """Even if torch's has none."""

    def with_gradient(shape):
        return positive(shape).requires_grad_()

    weighted = [each for each in operation.options if any("weight" in name for name in each)]
    options = [{**each, **{name: with_gradient for name in each if "weight" in name}} for each in weighted]
    check(dataclasses.replace(operation, options=tuple(options), more_options=()), device=device)


@EVERY
def test_autocast_computes_in_float32(operation: Operation, device):
    for options in operation.options:
        sample = operation.sample(options, (6, 5), torch.bfloat16, device)
        wide = {n: x.float() if isinstance(x, torch.Tensor) else x for n, x in sample.items()}
        expected = operation.function(**wide)
        for mixed in ({}, {"input": wide["input"]}, {"target": wide["target"]}):
            given = {**sample, **mixed}
            x = given["input"].detach().requires_grad_()
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = operation.function(**{**given, "input": x})
            torch.testing.assert_close(loss, expected, msg=described(options))
            assert torch.autograd.grad(loss.sum(), x)[0].dtype == x.dtype


@pytest.mark.parametrize("operation", OF_TORCH, ids=lambda operation: operation.function.__name__)
def test_mixed_dtypes_match_torch(operation: Operation):
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.complex64, torch.bool)
    for a, b in itertools.product(kinds, repeat=2):
        x, y = torch.ones(4).to(a), torch.ones(4).to(b)
        try:
            expected = operation.builtin(x, y)
        except Exception:
            assert outcome(operation.function, x, y) == outcome(operation.builtin, x, y)
        else:
            torch.testing.assert_close(operation.function(x, y), expected)


@EVERY
def test_bad_reductions_and_missing_arguments(operation: Operation):
    x, y = torch.randn(2, 3, 4)
    message = "nothing is not a valid value for reduction"
    assert outcome(operation.function, x, y, reduction="nothing") == (ValueError, message)
    assert outcome(operation.function, x)[0] is outcome(operation.function)[0] is TypeError


def test_kernels_of_reduced_losses_take_one_gradient():
    x = torch.randn(2, 3)
    scale = torch.tensor(0.25, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="one number"):
        torch.ops.torchnotes.mse_loss_backward(x[0, :2], x, x, None, scale, 1)
