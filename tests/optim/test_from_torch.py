"""from_torch and to_torch preserve groups, state and results."""

import copy
import sys

import pytest
import torch
from torch import nn

from optimizer_checks import assert_same
from optimizer_programs import SHAPES, Run, numbers
from torchnotes import optim
from torchnotes.optim._fused import Fused, prepare_steps
from torchnotes.testing.optimizers import OPTIMIZERS

CASES = [(name, options) for name, record in OPTIMIZERS.items() for options in record.options]


def pair(name: str, options: dict) -> list[Run]:
    """Two equal runs with torch's optimizer: one will be converted, the other is the reference."""
    runs = []
    for _ in range(2):
        values = [numbers(shape, torch.float64, i + 1) for i, shape in enumerate(SHAPES)]
        runs.append(Run(getattr(torch.optim, name), values, {"lr": 0.01, **options}))
        runs[-1].begin(lambda params: [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}])
    return runs


def step_alike(run: Run, other: Run, *schedulers, ours: bool) -> None:
    """Steps with the converted optimizer and with the reference, and compares all results."""
    with pytest.MonkeyPatch.context() as patch:
        if ours:  # torch's step must not be called; its module and function have the same name
            module = {"AdamW": "adam", "Adam": "adam"}.get(run.torchs.__name__, run.torchs.__name__.lower())
            patch.setattr(sys.modules[f"torch.optim.{module}"], module, None)
        run.step(2)
    other.step(2)
    for scheduler in schedulers:
        scheduler.step()
    assert_same(run.results(), other.results(), 1e-12)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_converted_optimizers_continue_and_convert_back(name, options):
    run, other = pair(name, options)
    step_alike(run, other, ours=False)
    optimizer, theirs, constructed = run.optimizer, other.optimizer, getattr(optim, name)(run.params, **run.options)
    groups, state, tensors = optimizer.param_groups, optimizer.state, run.states()
    assert optim.from_torch(optimizer) is optimizer
    assert type(optimizer) is getattr(optim, name)
    assert optimizer.param_groups is groups
    assert optimizer.state is state
    assert all(of[key] is x for of, before in zip(run.states(), tensors, strict=True) for key, x in before.items())
    step_alike(run, other, ours=True)
    assert [g.keys() for g in groups] == [constructed.param_groups[0].keys()] * 2
    assert optimizer.defaults == constructed.defaults
    optimizer.grad_norm = torch.ones(())  # as after a step with clipping
    assert optim.to_torch(optimizer) is optimizer
    assert type(optimizer) is type(theirs)
    assert vars(optimizer).keys() == vars(theirs).keys()
    assert [g.keys() for g in optimizer.param_groups] == [g.keys() for g in theirs.param_groups]
    assert optimizer.defaults == theirs.defaults
    step_alike(run, other, ours=False)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_existing_schedulers_and_hooks(name):
    run, other = pair(name, {})
    seen: list = []
    run.optimizer.register_step_post_hook(lambda *_: seen.append(1))
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(each.optimizer, 0.5) for each in (run, other)]
    optim.from_torch(run.optimizer)
    schedulers += [torch.optim.lr_scheduler.StepLR(each.optimizer, 1, 0.7) for each in (run, other)]
    for _ in range(2):
        step_alike(run, other, *schedulers, ours=True)
    assert len(seen) == 4
    assert run.optimizer.param_groups[0]["lr"] == other.optimizer.param_groups[0]["lr"] < 0.01
    optim.to_torch(run.optimizer)
    step_alike(run, other, *schedulers, ours=False)
    assert len(seen) == 6


def test_saving_and_loading_a_converted_optimizer():
    run, other = pair("Adam", {})
    optim.from_torch(run.optimizer)
    run.step()
    run.optimizer.param_groups[0]["max_grad_norm"] = 0.1
    for p, q in zip(run.params, other.params, strict=True):
        q.data.copy_(p.data)
    copied = copy.deepcopy(run.optimizer)
    assert type(copied) is optim.Adam
    other.steps = run.steps
    other.optimizer = optim.Adam([{"params": other.params[:2]}, {"params": other.params[2:]}], lr=0.5)
    other.optimizer.load_state_dict(copied.state_dict())
    step_alike(run, other, ours=True)
    assert run.optimizer.grad_norm is not None


def test_the_first_optimizer_of_a_program_may_be_a_converted_one(monkeypatch):
    """The conversion prepares what the first constructor usually does."""
    prepare_steps.cache_clear()
    for name in ("_uncompiled_step", "_hooked_step"):
        monkeypatch.delattr(Fused, name)
    w = torch.ones(2, requires_grad=True)
    optimizer = optim.from_torch(torch.optim.SGD([w], lr=0.5))
    w.sum().backward()
    optimizer.step()
    assert w.tolist() == [0.5, 0.5]


def test_rejects_other_optimizers():
    w = [nn.Parameter(torch.ones(3))]

    class Mine(torch.optim.SGD):
        pass

    for optimizer in (Mine(w, lr=0.1), torch.optim.LBFGS(w), torch.optim.Adamax(w), "adam"):
        with pytest.raises(TypeError, match=r"from_torch expects torch.optim's SGD, RMSprop, Adam or AdamW"):
            optim.from_torch(optimizer)
    with pytest.raises(TypeError, match=r"to_torch expects torchnotes.optim's"):
        optim.to_torch(torch.optim.LBFGS(w))
    for option, value in (("rounding", "stochastic"), ("max_grad_norm", 2.0), ("decoupled_weight_decay", True)):
        ours = optim.RMSprop([{"params": w}, {"params": [nn.Parameter(torch.ones(2))], option: value}], lr=0.1)
        assert optim.from_torch(ours) is ours
        with pytest.raises(ValueError, match=f"RMSprop has no {option}, got a group with {option}={value!r}"):
            optim.to_torch(ours)
        assert type(ours) is optim.RMSprop
    patched = torch.optim.SGD(w, lr=0.1)
    assert optim.to_torch(patched) is patched
    patched.step = lambda: None
    with pytest.raises(TypeError, match="has been replaced"):
        optim.from_torch(patched)
