"""Tests the traversals of rows and columns, csrc/loops, with the operations of tests/native."""

import os
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from cuda_on_cpu.build import library
from native_build import COMPILER, INSTRUCTION_SET, ROOT, SETUP, Build
from torch import Tensor

from checks import threads
from torchnotes.testing.layouts import offset_by_one

HARNESS = "TORCHNOTES_KERNELS" in os.environ

# Every tail of a vector; the sizes of tiles, prescans and pieces
LENGTHS = (*range(1, 70), 127, 1000, 1025, 4095, 4097, 8200, 32768, 32771, 200_000)
EPSILON = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 1e-6, torch.float16: 1e-6}
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 5e-3, torch.float16: 1e-3}


pytestmark = pytest.mark.kernels


@pytest.fixture(scope="session")
def rows() -> Any:
    """The compiled traversals."""
    name = "cuda_on_cpu" if HARNESS else INSTRUCTION_SET
    build = Build(f"rows_{name}")
    flag, operators = f"-DNAMESPACE=rows_{name}", ROOT / "tests/native/rows.cpp"
    if HARNESS:
        path = library(build, [operators], "rows.so", (flag,))
    else:
        command = [*COMPILER, *SETUP["cpu_flags"](name), flag]
        sources = [operators, *SETUP["sources"]("loops/cpu/*.cpp")]
        path = build.link([build.compile(command, source) for source in sources], "rows.so")
    build.run()
    torch.ops.load_library(path)
    return getattr(torch.ops, f"rows_{name}")


def precision(dtype: torch.dtype) -> torch.dtype:
    """The type of the arithmetic."""
    return torch.promote_types(dtype, torch.float32)


def shapes(length: int) -> list[tuple[int, int]]:
    """Fewer rows than threads, as many, and, for short rows, more."""
    return [(1, length), (2, length), *([(37, length)] if length <= 1000 else [])]


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


def as_rows(x: Tensor) -> Tensor:
    """An operand as a matrix with one row per row, in the terms of tests/native/rows.cpp."""
    match x.dim():
        case 2:
            return x
        case 3:
            return x.transpose(0, 1).flatten(1)
        case 4:
            return x[0].transpose(1, 2).flatten(0, 1)
        case _:
            return x[0, 0, 0].t()


def weights(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Tensor]:
    """Weights of one dtype and in the precision of the arithmetic: of each element, and shared by all rows.

    Segments and columns have operands of one dtype.
    """
    shared = {2: shape[-1:], 4: shape[2:3]}.get(len(shape))
    dtypes = {dtype} if len(shape) in (3, 5) else {dtype, precision(dtype)}
    for size, of in product((shape, *([shared] if shared else [])), dtypes):
        yield torch.rand(size).to(of)


def check_scale(rows: Any, x: Tensor, weight: Tensor, *, in_place: bool = False) -> None:
    """A second pass alone."""
    of_row = torch.rand(len(as_rows(x)), dtype=precision(x.dtype))
    w = as_rows(weight) if weight.dim() > 1 else weight
    expected = of_row[:, None].double() * as_rows(x).double() * w.double()
    out = x if in_place else torch.full_like(x, torch.nan)
    rows.scale_out(x, weight, of_row, out)
    close(as_rows(out), expected, ROUNDING[x.dtype])


def check_remove(rows: Any, x: Tensor, v: Tensor, weight: Tensor, *, in_place: bool = False) -> None:
    """Both passes, over three inputs, with constants of the row and light partial sums."""
    mean = torch.linspace(-1, 1, len(as_rows(x)), dtype=precision(x.dtype))
    w = (as_rows(weight) if weight.dim() > 1 else weight).double()
    u, direction = as_rows(x).double() - mean[:, None].double(), as_rows(v).double()
    expected = w * (u - (u * direction * w).mean(1, keepdim=True) * direction)
    out = x if in_place else torch.full_like(x, torch.nan)
    rows.remove_out(x, v, weight, mean, out)
    close(as_rows(out), expected, 8 * ROUNDING[x.dtype])


@pytest.mark.parametrize("prescan", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_max_and_sum(rows, length, prescan, dtype):
    for shape in shapes(length):
        for x in ((5 * torch.randn(shape)).to(dtype), offset_by_one((5 * torch.randn(shape)).to(dtype))):
            greatest, total = rows.max_sum(x, prescan)
            assert torch.equal(greatest.double(), x.double().amax(1))
            close(total, (x.double() - x.double().amax(1, keepdim=True)).exp().sum(1), 4 * EPSILON[dtype])


@pytest.mark.parametrize("prescan", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_transform_in_place_and_patch_the_target(rows, length, prescan, dtype):
    for shape in shapes(length):
        x = (5 * torch.randn(shape)).to(dtype)
        target = torch.randint(length, shape[:1])
        expected = x.double().softmax(1) - torch.nn.functional.one_hot(target, length)
        rows.softmax_less_target_(x, target, prescan)
        close(x, expected, 4 * ROUNDING[dtype])


SEGMENTS = [
    *((1, 3, 1), (5, 3, 1), (2, 5, 3), (7, 1, 49), (3, 2, 64), (2, 40, 129), (4, 2, 33_000), (701, 1, 1)),
    *((50, 3, 49), (9, 4, 1500), (30, 2, 200), (3, 300, 130), (2, 3, 32_769)),
]


@pytest.mark.parametrize("shape", SEGMENTS)
def test_statistics_over_segments(rows, shape, dtype):
    x = (torch.randn(shape) + 10_000).to(dtype)
    scale = torch.rand(shape[1], dtype=precision(dtype))
    centered, mean, variance = rows.center(x, scale)
    exact = as_rows(x).double()
    close(mean, exact.mean(1), EPSILON[dtype])
    close(variance, exact.var(1, correction=0), 1e-3 if dtype != torch.float64 else 1e-11)
    close(as_rows(centered), (exact - mean[:, None].double()) * scale[:, None].double(), ROUNDING[dtype])
    for prescan in (False, True):
        greatest, total = rows.max_sum(x, prescan)
        assert torch.equal(greatest.double(), exact.amax(1))
        close(total, (exact - exact.amax(1, keepdim=True)).exp().sum(1), 4 * EPSILON[dtype])


@pytest.mark.parametrize("shape", SEGMENTS)
def test_two_inputs_and_a_state_with_constants_of_its_row(rows, shape, dtype):
    g, x = torch.randn(shape).to(dtype), (torch.randn(shape) + 3).to(dtype)
    mean = torch.linspace(2, 4, shape[1], dtype=precision(dtype))
    total, along = rows.project(g, x, mean)
    size = shape[0] * shape[2]
    exact = as_rows(g).double()
    close(total / size, exact.mean(1), EPSILON[dtype])
    close(along / size, (exact * (as_rows(x).double() - mean[:, None].double())).mean(1), 4 * EPSILON[dtype])


@pytest.mark.parametrize("shape", SEGMENTS)
def test_three_inputs_over_segments(rows, shape, dtype):
    for weight in weights(shape, dtype):
        check_scale(rows, torch.randn(shape).to(dtype), weight)
        check_remove(rows, torch.randn(shape).to(dtype), torch.randn(shape).to(dtype), weight)


@pytest.mark.parametrize("length", [*range(1, 70), 128, 1000, 1025, 4097, 100_000])
def test_operands_of_each_row_and_shared_by_all_rows(rows, length, dtype):
    for shape in shapes(length):
        for weight, start in product(weights(shape, dtype), (0, 1)):
            x, v = (torch.randn(shape).to(dtype) for _ in range(2))
            x = offset_by_one(x) if start else x
            check_scale(rows, x, weight)
            check_remove(rows, x, v, weight)
        check_scale(rows, torch.randn(shape).to(dtype), weight, in_place=True)
        check_remove(rows, torch.randn(shape).to(dtype), v, weight, in_place=True)


INTERLEAVED = [
    *((1, 3, 5, 7), (1, 1, 1, 1), (1, 2, 70, 129), (1, 3, 1, 16), (1, 1, 1000, 33), (1, 200, 3, 40)),
    *((1, 2, length, inner) for length in (3, 64, 65) for inner in range(2, 36)),
]


@pytest.mark.parametrize("shape", INTERLEAVED)
def test_interleaved_rows(rows, shape, dtype):
    x = (5 * torch.randn(shape)).to(dtype)
    alone = as_rows(x).clone()  # one contiguous row each
    target = torch.randint(shape[2], (len(alone),))
    for prescan in (False, True):
        greatest, total = rows.max_sum(x, prescan)
        assert torch.equal(greatest.double(), alone.double().amax(1))
        close(total, (alone.double() - alone.double().amax(1, keepdim=True)).exp().sum(1), 4 * EPSILON[dtype])
    for weight in weights(shape, dtype):
        check_scale(rows, x, weight)
        check_remove(rows, x, torch.randn(shape).to(dtype), weight)
        check_remove(rows, x.clone(), torch.randn(shape).to(dtype), weight, in_place=True)
    rows.softmax_less_target_(x, target, False)
    expected = alone.double().softmax(1) - torch.nn.functional.one_hot(target, shape[2])
    close(as_rows(x), expected, 4 * ROUNDING[dtype])


COLUMNS = [
    *((1, 1), (5, 3), (40, 70), (1000, 64), (70_001, 5), (3, 1000), (300, 257)),
    *((33, columns) for columns in range(1, 70)),
]


@pytest.mark.parametrize("shape", COLUMNS)
def test_columns(rows, shape, dtype):
    x = (5 * torch.randn(shape) + 3).to(dtype)[None, None, None]
    exact = as_rows(x).double()
    greatest, total = rows.max_sum(x, False)
    assert torch.equal(greatest.double(), exact.amax(1))
    close(total, (exact - exact.amax(1, keepdim=True)).exp().sum(1), 8 * EPSILON[dtype])
    scale = torch.rand(shape[1], dtype=precision(dtype))
    centered, mean, variance = rows.center(x, scale)
    close(mean, exact.mean(1), 4 * EPSILON[dtype])
    close(variance, exact.var(1, correction=0), 1e-3 if dtype != torch.float64 else 1e-11)
    close(as_rows(centered), (exact - mean[:, None].double()) * scale[:, None].double(), 4 * ROUNDING[dtype])
    g = torch.randn(x.shape).to(dtype)
    total, along = rows.project(g, x, mean)
    close(total / shape[0], as_rows(g).double().mean(1), EPSILON[dtype])
    expected = (as_rows(g).double() * (exact - mean[:, None].double())).mean(1)
    close(along / shape[0], expected, 16 * EPSILON[dtype])
    for weight in weights(x.shape, dtype):
        check_scale(rows, x, weight)
        check_remove(rows, x, torch.randn(x.shape).to(dtype), weight)
        check_remove(rows, x.clone(), torch.randn(x.shape).to(dtype), weight, in_place=True)


@pytest.mark.parametrize("shape", [(530, 5, 800), (530, 5, 801), (1, 1, 1, 33_000, 64), (1, 1, 1, 6600, 320)])
def test_outputs_that_are_too_large_for_the_cache(rows, shape, dtype):
    """They are streamed past it where the alignment permits, if they have more than 16 MB."""
    *outer, length, width = shape
    x = torch.randn(*outer, length * 8 // dtype.itemsize, width).to(dtype)
    check_scale(rows, x, torch.rand(x.shape).to(dtype))
    check_remove(rows, x, x.flip(0), torch.rand(x.shape).to(dtype))


def test_empty(rows, dtype):
    for prescan in (False, True):
        greatest, total = rows.max_sum(torch.empty(3, 0, dtype=dtype), prescan)
        assert greatest.tolist() == [-torch.inf] * 3
        assert total.tolist() == [0] * 3
        assert rows.max_sum(torch.empty(0, 3, dtype=dtype), prescan)[0].shape == (0,)
    assert rows.max_sum(torch.empty(1, 1, 1, 0, 3, dtype=dtype), False)[0].tolist() == [-torch.inf] * 3
    assert rows.max_sum(torch.empty(1, 1, 1, 3, 0, dtype=dtype), False)[0].shape == (0,)
    for shape in ((1, 3, 0, 4), (1, 3, 4, 0), (1, 1, 1, 0, 3), (1, 1, 1, 3, 0)):
        x = torch.empty(shape, dtype=dtype)
        assert rows.center(x, torch.ones(len(as_rows(x)), dtype=precision(dtype)))[0].shape == shape
        for weight in weights(shape, dtype):
            check_scale(rows, x, weight)
            check_remove(rows, x, x, weight)


def test_nan_and_infinity(rows, dtype):
    x = torch.zeros(4, 100, dtype=dtype)
    x[0, 70], x[1, 70], x[2] = torch.nan, -torch.inf, -torch.inf
    for prescan in (False, True):
        greatest, total = rows.max_sum(x, prescan)
        assert greatest[0].isnan()
        assert total[1:].tolist() == [99, 100, 100]


@pytest.mark.parametrize(
    "shape",
    [
        *((1, 200_000), (2, 100_003), (3, 70_000), (501, 333), (3000, 40)),
        *((3, 2, 70_000), (500, 3, 130), (1, 3, 700, 33), (1, 1, 1, 4000, 70), (1, 1, 1, 300, 700)),
    ],
)
def test_bits_do_not_depend_on_threads(rows, shape, dtype):
    x, v = ((3 * torch.randn(shape)).to(dtype) for _ in range(2))
    count = len(as_rows(x))
    scale = torch.ones(count, dtype=precision(dtype))

    def results() -> list[Tensor]:
        softmax, scaled, mixed, removed = (x.clone() for _ in range(4))
        if len(shape) == 2:
            rows.softmax_less_target_(softmax, torch.zeros(count, dtype=torch.long), False)
        rows.scale_out(x, v, scale, scaled)
        rows.remove_out(x, v, v, scale, removed)
        if len(shape) not in (3, 5):  # segments and columns have operands of one dtype
            rows.remove_out(x, v, v.to(scale.dtype), scale, mixed)
        prescanned = () if len(shape) == 5 else rows.max_sum(x, True)
        return [softmax, scaled, mixed, removed, *prescanned, *rows.max_sum(x, False), *rows.center(x, scale)]

    with threads(1):
        alone = results()
    for n in (2, 3, 4):
        with threads(n):
            assert all(map(torch.equal, alone, results()))


@pytest.mark.skipif(not HARNESS, reason="on the CPU every operation may mix types")
def test_cuda_refuses_unexpected_element_types(rows):
    x, g, mean = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.half), torch.ones(2)
    for operands in ((x, g), (g, x)):
        with pytest.raises(RuntimeError, match="unexpected element types"):
            rows.project(*operands, mean)
    with pytest.raises(RuntimeError, match="unexpected element types"):
        rows.scale_out(x, g, mean, torch.empty_like(x))
