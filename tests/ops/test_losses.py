"""Tests of all elementwise losses that the generic checks do not cover."""

import dataclasses
import itertools

import pytest
import torch

from checks import outcome
from torchnotes.testing import derivatives
from torchnotes.testing.operation import Operation, described
from torchnotes.testing.operations.cross_entropy import CROSS_ENTROPY
from torchnotes.testing.operations.losses import LOSSES

EVERY = pytest.mark.parametrize("operation", LOSSES.values(), ids=LOSSES)
WITH_WEIGHTS = {**LOSSES, **CROSS_ENTROPY}
OF_TORCH = [operation for operation in LOSSES.values() if operation.builtin]


@EVERY
@pytest.mark.kernels
def test_large_sums_are_accurate(operation: Operation, device):
    for reduction in ("mean", "sum"):
        sample = operation.sample({"reduction": reduction}, (3_000_001,), torch.float32, device)
        exact = operation.reference(sample["input"].double(), sample["target"].double(), reduction=reduction)
        torch.testing.assert_close(operation.function(**sample).double(), exact, rtol=3e-7, atol=0)


@pytest.mark.parametrize("operation", WITH_WEIGHTS.values(), ids=WITH_WEIGHTS)
@pytest.mark.parametrize("check", derivatives.ALL, ids=lambda check: check.__name__)
def test_every_weight_has_derivatives(operation: Operation, check, device):
    """Even if torch's has none."""

    def with_gradient(maker):
        return lambda shape: maker(shape).requires_grad_()

    options = [
        {n: with_gradient(x) if "weight" in n else x for n, x in each.items()}
        for each in (*operation.options, *operation.more_options)
        if any("weight" in n and n != "linear_weight" for n in each)
    ]
    check(dataclasses.replace(operation, options=tuple(options), more_options=()), device=device)


MSE, LOGITS = LOSSES["mse_loss"], LOSSES["binary_cross_entropy_with_logits"]
MOST, INF = 3e38, float("inf")
LARGE = (  # a loss, its arguments, and the gradient of each element
    (MSE, {"input": MOST, "target": 0.0}, 0.25),
    (MSE, {"input": 1.0, "target": 0.0, "weight": MOST}, 0.25),
    (MSE, {"input": 0.25, "target": 0.0}, MOST),
    (MSE, {"input": 1e18, "target": 0.0, "weight": 1e30}, 1e-20),
    (MSE, {"input": 1e-18, "target": 0.0, "weight": MOST}, 1.0),
    (LOGITS, {"input": 5.0, "target": 1.0, "weight": MOST}, 4.0),
    (LOGITS, {"input": -5.0, "target": 0.0, "weight": MOST}, 4.0),
    (LOGITS, {"input": -5.0, "target": 0.0, "weight": MOST, "pos_weight": 2.0}, 4.0),
    (LOGITS, {"input": 1e-3, "target": 0.5, "weight": MOST}, 100.0),
    (LOGITS, {"input": MOST, "target": 0.5, "weight": 0.5}, 1.0),
    (LOGITS, {"input": -MOST, "target": 0.5, "weight": 0.5, "pos_weight": 0.5}, 1.0),
)
SMALL = (  # a loss, its arguments, the gradient of the mean, and the tolerance
    (MSE, {"input": 3e6, "target": 0.0}, 1e-37, 2e-7),
    (MSE, {"input": 1e30, "target": 0.0}, 1e-41, 2e-7),
    (MSE, {"input": INF, "target": 0.0}, 4.8e-38, 2e-7),
    (MSE, {"input": 3.0, "target": 0.0}, 1e38, 2e-7),
    (LOGITS, {"input": 3.0, "target": -1e6}, 1e-37, 3e-7),
)


@pytest.mark.parametrize("wanted", (("input",), ("input", "target")), ids=" and ".join)
@pytest.mark.parametrize("kind", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize(("operation", "numbers", "g"), LARGE)
def test_large_values_overflow_no_earlier_than_in_torch(operation: Operation, numbers, g, kind, wanted):
    for reduction, create_graph in itertools.product(("none", "sum", "mean"), (False, True)):
        results = []
        for function in (operation.function, operation.builtin):
            given = {n: torch.full((4, 5), x, dtype=kind).requires_grad_(n in wanted) for n, x in numbers.items()}
            loss, inputs = function(**given, reduction=reduction), [given[name] for name in wanted]
            results.append(torch.autograd.grad(loss, inputs, torch.full_like(loss, g), create_graph=create_graph))
        for ours, theirs in zip(*results, strict=True):
            assert ours[theirs.isfinite()].isfinite().all()


@pytest.mark.parametrize(("operation", "numbers", "g", "rtol"), SMALL)
def test_subnormal_gradients_are_rounded_once(operation: Operation, numbers, g, rtol):
    results = []
    for dtype in (torch.float32, torch.float64):
        given = {name: torch.full((100_000,), x, dtype=dtype) for name, x in numbers.items()}
        loss = operation.function(**given | {"input": given["input"].requires_grad_()})
        results.append(torch.autograd.grad(loss, given["input"], torch.tensor(g).to(dtype))[0])
    torch.testing.assert_close(results[0], results[1].float(), rtol=rtol, atol=0)


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


@pytest.mark.parametrize("operation", [*OF_TORCH, CROSS_ENTROPY["cross_entropy"]], ids=lambda o: o.function.__name__)
def test_deprecated_reductions_warn_as_in_torch(operation: Operation):
    x, target = torch.randn(4, 5), torch.rand(4, 5)
    for arguments in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        found = []
        for function in (operation.function, operation.builtin):
            with pytest.warns(UserWarning, match="deprecated"):
                found.append(function(x, target, **arguments))
        torch.testing.assert_close(*found)


def test_kernels_of_reduced_losses_take_one_gradient():
    x = torch.randn(2, 3)
    scale = torch.tensor(0.25, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="one number"):
        torch.ops.torchnotes.mse_loss_backward(x[0, :2], x, x, None, scale, 1)
