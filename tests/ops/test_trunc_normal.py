"""trunc_normal_"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from checks import outcome
from philox import KEY, fractions_in_double
from torchnotes import init


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
@pytest.mark.parametrize(
    ("a", "b"), ((-2, 2), (5, 6), (-6, -5), (8, 9), (-math.inf, math.inf), (3, math.inf), (-math.inf, -9), (1, 1))
)
def test_intervals_far_from_the_mean(a, b, dtype):
    n = 100_000
    x = init.trunc_normal_(torch.empty(n, dtype=dtype), 0.0, 1.0, a, b, generator=KEY).double().numpy()
    low, high = (torch.tensor(float(t), dtype=dtype).item() for t in (a, b))
    assert ((low <= x) & (x <= high)).all()
    if a < b and dtype in (torch.float32, torch.float64):
        inverse = stats.truncnorm(a, b).isf if a + b > 0 else stats.truncnorm(a, b).ppf  # mirrored
        exact = inverse(fractions_in_double(KEY, n, dtype))
        np.testing.assert_allclose(x, exact, rtol=1e-6 if dtype == torch.float32 else 1e-9)


@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_an_interval_of_one_number():
    """Whether the formula rounds up or down."""
    for bound in torch.linspace(-4, 4, 200, dtype=torch.float64).tolist():
        assert (init.trunc_normal_(torch.empty(3, dtype=torch.float64), 0.1, 1.1, bound, bound) == bound).all()


def test_bad_arguments():
    x = torch.ones(3)
    for arguments in ((0.0, 1.0, 2.0, 1.0), (0.0, -1.0), (0.0, 1.0, math.nan, 1.0), (0.0, math.nan)):
        assert outcome(init.trunc_normal_, x, *arguments)[0] is RuntimeError
    assert (x == 1).all()
    assert outcome(init.trunc_normal_, x, 0.0, 0.0)[0] is outcome(torch.nn.init.trunc_normal_, x, 0.0, 0.0)[0]
    assert (x == 1).all()


def test_a_mean_far_from_the_bounds_warns_once():
    for mean in (5.0, torch.tensor(-5.0)):
        with pytest.warns(UserWarning, match="mean is more than 2 std from") as caught:
            init.trunc_normal_(torch.empty(3), mean)
        assert [warning.filename for warning in caught][-1:] == [__file__] or isinstance(mean, torch.Tensor)
        assert len(caught) == 1
