"""normal_"""

import math

import numpy as np
import torch
from scipy import stats

from checks import outcome
from philox import KEY, normals
from torchnotes import init


def test_standard_normal_numbers_are_accurate_to_a_few_ulp():
    for dtype in (torch.float32, torch.float64):
        got = init.normal_(torch.empty(1 << 20, dtype=dtype), generator=KEY).double().numpy()
        exact = normals(KEY, 1 << 20, dtype)
        ulps = np.abs(got - exact) / (torch.finfo(dtype).eps * np.abs(exact))
        assert ulps.mean() < 1
        assert ulps.max() < 4


def test_tails_beyond_four_standard_deviations():
    n = 1 << 23
    x = init.normal_(torch.empty(n), generator=KEY)
    for bound in (4.0, 4.5, 5.0):
        expected = n * stats.norm.sf(bound)
        for count in ((x > bound).sum().item(), (x < -bound).sum().item()):
            assert abs(count - expected) < 4.5 * math.sqrt(expected) + 1
    assert 5 < x.abs().max().item() < 6.7


def test_zero_and_invalid_standard_deviations():
    assert torch.equal(init.normal_(torch.empty(3), 2.0, 0.0), torch.full((3,), 2.0))
    x = torch.ones(3)
    for std in (-1.0, math.nan):
        assert outcome(init.normal_, x, 0.0, std)[0] is RuntimeError
    assert outcome(init.normal_, x, 0.0, -1.0) == outcome(torch.nn.init.normal_, x, 0.0, -1.0)
    assert (x == 1).all()
