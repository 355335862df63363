"""`make conformance` catches mistakes."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conformance import modules, operations, optimizers
from conformance.__main__ import reasons
from conformance.case import Case
from conformance.programs import backward, forward
from conformance.run import compared
from conformance.samples import Sample


def difference(ours: Callable, dtype: torch.dtype = torch.float32, program: Callable = forward) -> str | None:
    sample = Sample("relu", (torch.linspace(-3, 3, 12).view(3, 4).to(dtype),), {})
    return Case("relu", "", ours, F.relu, sample, program).difference()


def refused(x: Tensor) -> Tensor:
    raise ValueError("refused")


@pytest.mark.parametrize(
    ("ours", "kind"),
    (
        (lambda x: F.relu(x) * (1 + 1e-5), "silent"),
        (lambda x: F.relu(x).t().contiguous().t(), "form: strides"),
        (lambda x: F.relu(x).double(), "form: dtype"),
        (lambda x: F.relu_(x), "silent: argument 0 afterwards"),
        (refused, "rejected: ValueError"),
    ),
)
def test_a_wrong_operation_is_caught(ours, kind):
    assert difference(ours).startswith(kind)


def test_a_wrong_gradient_is_caught():
    def ours(x: Tensor) -> Tensor:
        return x * (x.detach() >= 0) + 1e-3 * (x - x.detach())

    assert difference(ours) is None
    assert difference(ours, program=lambda f, sample: backward(f, sample, (0,))).startswith("silent: gradient")


def test_other_errors_are_caught():
    assert difference(lambda x: torch.ones(2), dtype=torch.bool).startswith("accepted: torch raises")
    assert difference(refused, dtype=torch.bool).startswith("exception: ValueError")


def test_the_more_accurate_result_passes():
    assert difference(lambda x: (F.relu(x.double()) * (1 + 1e-9)).to(x.dtype)) is None


@pytest.mark.parametrize(("part", "name"), ((operations, "relu"), (modules, "ReLU"), (optimizers, "SGD")))
def test_cases_run(part, name):
    result = compared(name, itertools.islice(part.cases(name), 3), "", [])
    assert result.cases == 3
    assert not result.differences


def test_unexplained_differences_fail(monkeypatch):
    monkeypatch.setattr("conformance.__main__.DIFFERENCES", {"relu.*silent": "a reason", "nothing": "a reason"})
    wrong = Case("relu", "", torch.neg, F.relu, Sample("relu", (-torch.ones(2),), {}), forward)
    (found,) = compared("", [wrong], "operations", []).differences
    unexplained, matched = reasons([found, dataclasses.replace(found, case="tanh")])
    assert [one.case for one in unexplained] == ["tanh"]
    assert matched["relu.*silent"] == 1
    assert not matched["nothing"]  # an unused reason also fails the run
