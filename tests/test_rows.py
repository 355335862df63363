"""Tests the row drivers, rows.h and columns.h of csrc/cpu and csrc/cuda, with the operations of tests/native."""

import os
from typing import Any

import pytest
import torch
from cuda_on_cpu.build import library
from native_build import COMPILER, INSTRUCTION_SET, ROOT, SETUP, Build
from torch import Tensor

from checks import threads
from torchnotes.testing.layouts import offset_by_one

SOURCES = ROOT / "tests/native"

LENGTHS = (*range(1, 70), 127, 1000, 32768, 32771, 200_000)
EPSILON = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 1e-6, torch.float16: 1e-6}
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 5e-3, torch.float16: 1e-3}


pytestmark = pytest.mark.kernels


@pytest.fixture(scope="session")
def rows() -> Any:
    """The compiled drivers."""
    name = "cuda_on_cpu" if "TORCHNOTES_KERNELS" in os.environ else INSTRUCTION_SET
    build = Build(f"rows_{name}")
    flag = f"-DNAMESPACE=rows_{name}"
    if name == "cuda_on_cpu":
        path = library(build, [SOURCES / "rows.cu"], "rows.so", (flag,))
    else:
        command = [*COMPILER, *SETUP["cpu_flags"](name), flag]
        path = build.link([build.compile(command, SOURCES / "rows.cpp")], "rows.so")
    build.run()
    torch.ops.load_library(path)
    return getattr(torch.ops, f"rows_{name}")


def shapes(length: int) -> list[tuple[int, int]]:
    """Fewer rows than threads, as many, and, for short rows, more."""
    return [(1, length), (2, length), *([(37, length)] if length <= 1000 else [])]


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


def channels(x: Tensor) -> Tensor:
    """(N, C, L) as a matrix with one row per channel."""
    return x.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("length", LENGTHS)
def test_max_and_sum(rows, length, dtype):
    for shape in shapes(length):
        for x in ((5 * torch.randn(shape)).to(dtype), offset_by_one((5 * torch.randn(shape)).to(dtype))):
            greatest, total = rows.max_sum(x)
            assert torch.equal(greatest.double(), x.double().amax(1))
            close(total, (x.double() - x.double().amax(1, keepdim=True)).exp().sum(1), 4 * EPSILON[dtype])


@pytest.mark.parametrize("length", LENGTHS)
def test_transform_in_place_and_patch_the_target(rows, length, dtype):
    for shape in shapes(length):
        x = (5 * torch.randn(shape)).to(dtype)
        target = torch.randint(length, shape[:1])
        expected = x.double().softmax(1) - torch.nn.functional.one_hot(target, length)
        rows.softmax_less_target_(x, target)
        close(x, expected, 4 * ROUNDING[dtype])


@pytest.mark.parametrize(
    "shape",
    [
        *((1, 3, 1), (5, 3, 1), (2, 5, 3), (7, 1, 49), (3, 2, 64), (2, 40, 129), (4, 2, 33_000), (70_001, 1, 1)),
        *((50, 3, 49), (9, 4, 1500), (30, 2, 200), (3, 300, 130)),
    ],
)
def test_statistics_over_segments(rows, shape, dtype):
    x = (torch.randn(shape) + 10_000).to(dtype)
    scale = torch.rand(shape[1], dtype=torch.promote_types(dtype, torch.float32))
    centered, mean, variance = rows.center(x, scale)
    exact = x.double()
    close(mean, channels(exact).mean(1), EPSILON[dtype])
    close(variance, channels(exact).var(1, correction=0), 1e-3 if dtype != torch.float64 else 1e-11)
    close(centered, (exact - mean[:, None].double()) * scale[:, None].double(), ROUNDING[dtype])


@pytest.mark.parametrize("shape", [(1, 3, 1), (2, 5, 3), (7, 1, 49), (2, 40, 129), (4, 2, 33_000)])
def test_two_inputs_and_a_state_with_constants_of_its_row(rows, shape, dtype):
    g, x = torch.randn(shape).to(dtype), (torch.randn(shape) + 3).to(dtype)
    mean = torch.linspace(2, 4, shape[1], dtype=torch.promote_types(dtype, torch.float32))
    total, along = rows.project(g, x, mean)
    size = shape[0] * shape[2]
    close(total / size, channels(g.double()).mean(1), EPSILON[dtype])
    close(along / size, channels(g.double() * (x.double() - mean[:, None].double())).mean(1), 4 * EPSILON[dtype])


@pytest.mark.parametrize("length", [1, 7, 8, 64, 1000, 100_000])
def test_map_with_an_operand_shared_by_all_rows(rows, length, dtype):
    for shape in shapes(length):
        x, weight = torch.randn(shape).to(dtype), torch.randn(length).to(dtype)
        of_row = torch.rand(shape[0], dtype=torch.promote_types(dtype, torch.float32))
        close(rows.scale(x, weight, of_row), of_row[:, None].double() * x.double() * weight.double(), ROUNDING[dtype])


INTERLEAVED = [(1, 3, 5, 7), (1, 1, 1, 1), (1, 2, 70, 129), (1, 3, 1, 16), (1, 1, 1000, 33), (1, 200, 3, 40)]


@pytest.mark.parametrize("shape", INTERLEAVED)
def test_interleaved_rows(rows, shape, dtype):
    x = (5 * torch.randn(shape)).to(dtype)
    alone = x[0].transpose(1, 2).flatten(0, 1).clone()  # one contiguous row each
    target = torch.randint(shape[2], (len(alone),))
    greatest, total = rows.max_sum(x)
    assert torch.equal(greatest.double(), alone.double().amax(1))
    close(total, (alone.double() - alone.double().amax(1, keepdim=True)).exp().sum(1), 4 * EPSILON[dtype])
    weight = torch.randn(shape[2]).to(dtype)
    of_row = torch.rand(len(alone), dtype=torch.promote_types(dtype, torch.float32))
    scaled = rows.scale(x, weight, of_row)[0].transpose(1, 2).flatten(0, 1)
    close(scaled, of_row[:, None].double() * alone.double() * weight.double(), ROUNDING[dtype])
    rows.softmax_less_target_(x, target)
    expected = alone.double().softmax(1) - torch.nn.functional.one_hot(target, shape[2])
    close(x[0].transpose(1, 2).flatten(0, 1), expected, 4 * ROUNDING[dtype])


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (40, 70), (1000, 64), (70_001, 5), (3, 1000), (300, 257)])
def test_columns(rows, shape, dtype):
    x = (5 * torch.randn(shape) + 3).to(dtype)
    exact, as_columns = x.double().t(), x[None, None, None]
    greatest, total = rows.max_sum(as_columns)
    assert torch.equal(greatest.double(), exact.amax(1))
    close(total, (exact - exact.amax(1, keepdim=True)).exp().sum(1), 8 * EPSILON[dtype])
    scale = torch.rand(shape[1], dtype=torch.promote_types(dtype, torch.float32))
    centered, mean, variance = rows.center(as_columns, scale)
    close(mean, exact.mean(1), 4 * EPSILON[dtype])
    close(variance, exact.var(1, correction=0), 1e-3 if dtype != torch.float64 else 1e-11)
    close(centered[0, 0, 0].t(), (exact - mean[:, None].double()) * scale[:, None].double(), 4 * ROUNDING[dtype])
    g = torch.randn(shape).to(dtype)
    total, along = rows.project(g[None, None, None], as_columns, mean)
    close(total / shape[0], g.double().t().mean(1), EPSILON[dtype])
    close(along / shape[0], (g.double().t() * (exact - mean[:, None].double())).mean(1), 16 * EPSILON[dtype])


def test_empty(rows, dtype):
    greatest, total = rows.max_sum(torch.empty(3, 0, dtype=dtype))
    assert greatest.tolist() == [-torch.inf] * 3
    assert total.tolist() == [0] * 3
    assert rows.max_sum(torch.empty(0, 3, dtype=dtype))[0].shape == (0,)
    assert rows.center(torch.empty(2, 3, 0, dtype=dtype), torch.ones(3, dtype=greatest.dtype))[0].shape == (2, 3, 0)


def test_nan_and_infinity(rows, dtype):
    x = torch.zeros(4, 100, dtype=dtype)
    x[0, 70], x[1, 70], x[2] = torch.nan, -torch.inf, -torch.inf
    greatest, total = rows.max_sum(x)
    assert greatest[0].isnan()
    assert total[1:].tolist() == [99, 100, 100]


@pytest.mark.parametrize("shape", [(1, 200_000), (2, 100_003), (3, 70_000), (501, 333)])
def test_bits_do_not_depend_on_threads(rows, shape, dtype):
    x = (3 * torch.randn(shape)).to(dtype)
    scale = torch.ones(shape[0], dtype=torch.promote_types(dtype, torch.float32))

    def results() -> list[Tensor]:
        softmax = x.clone()
        rows.softmax_less_target_(softmax, torch.zeros(shape[0], dtype=torch.long))
        return [softmax, *rows.max_sum(x), *rows.center(x[None], scale)]

    with threads(1):
        alone = results()
    for n in (2, 3, 4):
        with threads(n):
            assert all(map(torch.equal, alone, results()))
