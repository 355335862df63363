"""RMSprop"""

from functools import partial

import pytest
import torch

from optimizer_checks import OptimizerChecks
from optimizer_programs import with_option_of_a_group
from torchnotes.optim import RMSprop
from torchnotes.testing.optimizers import OPTIMIZERS, give_gradients, parameters


class TestRMSprop(OptimizerChecks):
    case = OPTIMIZERS["RMSprop"]
    bits = ("21b94640c9c7886e", "b65f7b76b578bc9f")

    @pytest.mark.parametrize("momentum", (-1.0, float("nan")))
    def test_momentum_that_is_not_positive_is_ignored(self, momentum):
        """Like torch, which has a momentum buffer only if momentum is positive."""
        self.compare(partial(with_option_of_a_group, option={"momentum": momentum}), options=({},))


def test_the_variance_of_a_constant_gradient_is_not_negative():
    """v - m^2 is 0 up to rounding errors, so that torch takes the square root of a negative number."""
    for kind in (RMSprop, torch.optim.RMSprop):
        p = torch.ones(1000, requires_grad=True)
        optimizer = kind([p], centered=True, alpha=0.5)
        p.grad = torch.linspace(0.1, 3, 1000)
        for _ in range(60):
            optimizer.step()
        assert p.isfinite().all() == (kind is RMSprop)


def test_rmsprop_of_the_notes():
    """Row 26: W <- W - gamma grad / |C| with C the root of the moving average of grad^2."""
    gamma, alpha = 0.1, 0.9
    (w,) = params = parameters([(5,)], torch.float64)
    W, average = w.detach().clone(), torch.zeros(5, dtype=torch.float64)
    optimizer = RMSprop(params, lr=gamma, alpha=alpha, eps=0)
    for _ in range(20):
        give_gradients(params)
        average = alpha * average + (1 - alpha) * w.grad**2
        W = W - gamma * w.grad / average.sqrt()
        optimizer.step()
        torch.testing.assert_close(w.detach(), W, rtol=1e-13, atol=1e-14)
