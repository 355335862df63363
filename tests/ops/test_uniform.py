"""uniform_"""

import math

import torch

from checks import outcome
from philox import KEY, fractions
from torchnotes import init


def test_bounds():
    for a, b in ((0.0, 1.0), (-3.0, -3.0), (5.0, 7.0)):
        for dtype in (torch.float32, torch.float64):
            x = init.uniform_(torch.empty(1 << 20, dtype=dtype), a, b)
            assert a <= x.min().item() <= x.max().item() <= b
    assert (init.uniform_(torch.empty(1 << 20)) < 1).all()


def test_bad_bounds_raise_torchs_errors(dtype):
    x = torch.ones(3, dtype=dtype)
    largest = torch.finfo(dtype).max
    bad = [(2.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (0.0, math.inf), (-math.inf, 0.0), (-largest, largest)]
    bad += [] if dtype is torch.float64 else [(0.0, largest * 1.5)]
    for a, b in bad:
        assert outcome(init.uniform_, x, a, b) == outcome(torch.nn.init.uniform_, x, a, b)
        assert outcome(init.uniform_, x, a, b)[0] is RuntimeError
    assert (x == 1).all(), "nothing is written"
    init.uniform_(x, 0.0, largest)


def test_double_precision_has_53_random_bits():
    x = init.uniform_(torch.empty(100_000, dtype=torch.float64))
    whole = x * 2.0**53
    assert (whole == whole.floor()).all()
    assert abs((whole % 2).mean().item() - 0.5) < 4.5 * 0.5 / 100_000**0.5, "the last bit is random"


def test_large_offsets():
    """The index of the block has more than 32 bits."""
    for dtype in (torch.float32, torch.float64):
        for first in (2**34 - 40, 2**40 + 12345):
            x = torch.empty(200, dtype=dtype)
            torch.ops.torchnotes.uniform_(x, KEY, 0.0, 1.0, (first, 200, 0))
            assert (x.double().numpy() == fractions(KEY, 200, dtype, first)).all()
