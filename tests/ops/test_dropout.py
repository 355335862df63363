"""The rate and the scale of dropout. Its mask is tested in test_random.py."""

import itertools
import math

import pytest
import torch

import torchnotes.functional as F
from checks import outcome
from philox import KEY


def test_rejects_invalid_p_like_torch():
    x = torch.ones(3)
    for p, training, inplace in itertools.product((-0.1, 1.1, math.nan, "x", None), (True, False), (False, True)):
        expected = outcome(torch.nn.functional.dropout, x, p, training)
        assert outcome(F.dropout, x, p, training, inplace) == expected
    for training in (None, 1, 0, "mean"):
        assert outcome(F.dropout, x, 0.5, training) == outcome(torch.nn.functional.dropout, x, 0.5, training)
    assert torch.equal(x, torch.ones(3))


@pytest.mark.parametrize("p", (0.1, 0.5, 0.97))
def test_rate_and_scale(p, dtype):
    n = 1 << 20
    y = F.dropout(torch.ones(n, dtype=dtype), p, generator=KEY)
    dropped = (y == 0).double()
    deviation = math.sqrt(p * (1 - p) / n)
    assert abs(dropped.mean().item() - p) < 4.5 * deviation
    assert y.max() == torch.tensor(1 / (1 - p), dtype=dtype)
    for lag in (1, 2, 15, 16, 17, 32, 64):  # neighbors in the tensor, and in a block of random words
        pairs = dropped[lag:] * dropped[:-lag]
        assert abs(pairs.mean().item() - p * p) < 4.5 * deviation


def test_mask_is_the_same_for_every_dtype_computed_in_float():
    masks = [F.dropout(torch.ones(5000, dtype=t), 0.3, generator=KEY) == 0 for t in (torch.float, torch.half)]
    assert torch.equal(*masks)
