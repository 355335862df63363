"""dropout. Its rate is tested in test_random.py."""

import itertools
import math

import torch

import torchnotes.functional as F
from checks import outcome
from generic import checked
from philox import KEY, factors_of_dropout
from torchnotes.testing.operations.random import NOISES


@checked(NOISES["dropout"])
def test_generic(check):
    check()


def test_rejects_invalid_p_like_torch():
    x = torch.ones(3)
    for p, training, inplace in itertools.product((-0.1, 1.1, math.nan, "x", None), (True, False), (False, True)):
        expected = outcome(torch.nn.functional.dropout, x, p, training)
        assert outcome(F.dropout, x, p, training, inplace) == expected
    for training in (None, 1, 0, "mean"):
        assert outcome(F.dropout, x, 0.5, training) == outcome(torch.nn.functional.dropout, x, 0.5, training)
    assert torch.equal(x, torch.ones(3))


def test_factors_match_the_formula(dtype, device):
    for p in (0.1, 0.3, 0.5, 0.97, 1.0, 1e-9, 1 - 2**-20):
        factors = F.dropout(torch.ones(5000, dtype=dtype, device=device), p, generator=KEY)
        assert torch.equal(factors.cpu(), factors_of_dropout(KEY, (5000,), dtype, p).to(dtype))
