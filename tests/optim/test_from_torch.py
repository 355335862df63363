"""from_torch and to_torch preserve groups, state and results."""

import copy
import sys

import pytest
import torch
from torch import nn

from torchnotes import optim
from torchnotes.optim._fused import Fused

OPTIONS = {
    "SGD": [{}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "dampening": 0.5, "weight_decay": 0.1}],
    "RMSprop": [{}, {"momentum": 0.9, "centered": True}],
    "Adam": [{}, {"amsgrad": True, "weight_decay": 0.1}, {"fused": True}],
    "AdamW": [{}, {"maximize": True}],
}
CASES = pytest.mark.parametrize(("name", "options"), [(name, one) for name in OPTIONS for one in OPTIONS[name]])


def groups_of(net: nn.Module) -> list[dict]:
    return [{"params": net[0].parameters()}, {"params": net[1].parameters(), "lr": 0.02}]


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *schedulers) -> None:
    torch.manual_seed(steps)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def pair(name: str, options: dict) -> tuple:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    other = copy.deepcopy(net)
    kind = getattr(torch.optim, name)
    return net, kind(groups_of(net), lr=0.01, **options), other, kind(groups_of(other), lr=0.01, **options)


def forbid_torchs_step(monkeypatch, name: str) -> None:
    def never(*_, **__):
        raise AssertionError("this is torch's step")

    module = {"AdamW": "adam", "Adam": "adam"}.get(name, name.lower())  # module and function of the step
    monkeypatch.setattr(sys.modules[f"torch.optim.{module}"], module, never)


@CASES
def test_converted_optimizers_continue_and_convert_back(name, options):
    net, optimizer, other, theirs = pair(name, options)
    train(net, optimizer, 3)
    train(other, theirs, 3)
    groups, state = optimizer.param_groups, optimizer.state
    tensors = [x for of in state.values() for x in of.values()]
    assert optim.from_torch(optimizer) is optimizer
    assert type(optimizer) is getattr(optim, name)
    assert optimizer.param_groups is groups
    assert optimizer.state is state
    assert all(a is b for a, b in zip(tensors, (x for of in state.values() for x in of.values()), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        forbid_torchs_step(patch, name)
        train(net, optimizer, 4)
    train(other, theirs, 4)
    torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)
    constructed = getattr(optim, name)(groups_of(net), lr=0.01, **options)
    assert [g.keys() for g in optimizer.param_groups] == [g.keys() for g in constructed.param_groups]
    assert optimizer.defaults == constructed.defaults
    optimizer.grad_norm = torch.ones(())  # as after a step with clipping
    assert optim.to_torch(optimizer) is optimizer
    assert type(optimizer) is type(theirs)
    assert vars(optimizer).keys() == vars(theirs).keys()
    assert [g.keys() for g in optimizer.param_groups] == [g.keys() for g in theirs.param_groups]
    assert optimizer.defaults == theirs.defaults
    train(net, optimizer, 2)
    train(other, theirs, 2)
    torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_existing_schedulers_and_hooks(name, monkeypatch):
    net, optimizer, other, theirs = pair(name, {})
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(each, 0.5) for each in (optimizer, theirs)]
    seen: list = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    optim.from_torch(optimizer)
    late = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7), torch.optim.lr_scheduler.StepLR(theirs, 1, 0.7)
    train(other, theirs, 3, schedulers[1], late[1])
    forbid_torchs_step(monkeypatch, name)
    train(net, optimizer, 3, schedulers[0], late[0])
    assert len(seen) == 3
    torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)
    assert optimizer.param_groups[0]["lr"] == theirs.param_groups[0]["lr"] < 0.01
    monkeypatch.undo()
    optim.to_torch(optimizer)
    train(net, optimizer, 1, schedulers[0], late[0])
    train(other, theirs, 1, schedulers[1], late[1])
    assert len(seen) == 4
    torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)


def test_saving_and_loading_a_converted_optimizer():
    net, optimizer, other, _ = pair("Adam", {})
    train(net, optimizer, 2)
    other.load_state_dict(net.state_dict())
    optim.from_torch(optimizer)
    optimizer.param_groups[0]["max_grad_norm"] = 0.1
    loaded = optim.Adam(groups_of(other), lr=0.5)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(net, optimizer, 2)
    train(other, loaded, 2)
    assert torch.equal(net[0].weight, other[0].weight)
    assert optimizer.grad_norm is not None
    assert type(copy.deepcopy(optimizer)) is optim.Adam


def test_the_first_optimizer_of_a_program_may_be_a_converted_one(monkeypatch):
    """The conversion prepares what the first instance of a class usually does."""
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
