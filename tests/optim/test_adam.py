"""Adam and AdamW"""

import pytest
import torch

from optimizer_checks import OptimizerChecks
from optimizer_programs import Run
from torchnotes.optim import Adam, AdamW
from torchnotes.testing.optimizers import OPTIMIZERS, give_gradients, parameters, take_steps


class TestAdam(OptimizerChecks):
    case = OPTIMIZERS["Adam"]
    bits = ("93f4eac887686967", "f040008305c0474e")

    @pytest.mark.parametrize("betas", ((torch.tensor(0.5), 0.9), (0.5, torch.tensor(0.9))), ids=str)
    def test_one_of_the_betas_may_be_a_tensor(self, betas):
        def program(run: Run) -> None:
            run.optimizer.param_groups[0]["betas"] = betas
            run.step(2)

        self.compare(program, options=({},), tolerance=1e-6)  # the tensors are float32


class TestAdamW(OptimizerChecks):
    case = OPTIMIZERS["AdamW"]
    bits = ("66abc75ec061c0e8", "6ac8af6f49f4db76")


def test_adam_of_the_notes():
    """Row 27: C <- p C + (1 - p) grad, with the moving average of squares and bias correction."""
    lr, p, q = 0.1, 0.9, 0.99
    (w,) = params = parameters([(5,)], torch.float64)
    W, C, S = w.detach().clone(), torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    optimizer = Adam(params, lr=lr, betas=(p, q), eps=0)
    for t in range(1, 21):
        give_gradients(params)
        C = p * C + (1 - p) * w.grad
        S = q * S + (1 - q) * w.grad**2
        W = W - lr * (C / (1 - p**t)) / (S / (1 - q**t)).sqrt()
        optimizer.step()
        torch.testing.assert_close(w.detach(), W, rtol=1e-12, atol=1e-13)


def test_nan_in_the_maximum_of_amsgrad_stays():
    """The state is loaded, with a finite average. torch.maximum also propagates NaN."""
    for dtype in (torch.float32, torch.bfloat16):
        (p,) = params = [torch.ones(40, dtype=dtype, requires_grad=True)]
        optimizer = Adam(params, amsgrad=True)
        take_steps([optimizer], params, steps=1)
        optimizer.state[p]["max_exp_avg_sq"][3] = torch.nan
        take_steps([optimizer], params, steps=1)
        assert optimizer.state[p]["max_exp_avg_sq"].isnan().nonzero().tolist() == p.isnan().nonzero().tolist() == [[3]]


def test_adamw_stays_decoupled_whatever_is_loaded():
    params = parameters([(3,)], torch.float64)
    adam = Adam(params)
    take_steps([adam], params, steps=1)
    for kind in (AdamW, torch.optim.AdamW):
        optimizer = kind(params)
        optimizer.load_state_dict(adam.state_dict())
        assert optimizer.param_groups[0]["decoupled_weight_decay"]
