"""convert preserves the results of a model whose forward depends on its input or state."""

import collections
import contextlib  # noqa: F401 # used by the sources below
import copy
import cProfile
import gc
import pickle
import random
import sys

import pytest
import torch
import torch.fx
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint  # noqa: F401 # used by the sources below

from conversion_checks import fused_in, module
from torchnotes import convert

X = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5)
MISSING = object()
count = 0


class Config:
    flip, names = False, ()


class Negative(nn.Module):
    def forward(self, x):
        return -x


class Model(nn.Module):
    """A layer and its activation. The forward runs `between` in between."""

    def __init__(self):
        super().__init__()
        self.lin, self.act, self.bn, self.out = nn.Linear(5, 3), nn.LeakyReLU(0.1), nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.extra, self.neck, self.parts = None, nn.Identity(), nn.ModuleList()
        self.register_buffer("step", torch.zeros(()))
        self.cfg, self.config, self.functions, self.n, self.scale = {"n": 0}, Config(), [], 0, torch.zeros(())
        self.function, self.flag, self.mode = keep, False, "keep"


def keep(y):
    return y


def set_to(**attributes):
    return lambda model: vars(model).update(attributes)


# Source that runs between the two, and a change of the model before the call or the arguments of the call.
NOT_FUSED = {
    # questions that torch.fx answers differently
    "if isinstance(y, torch.Tensor): y = -y": None,
    "y = -y if type(y) is torch.Tensor else y": None,
    "y = -y if torch.is_tensor(y) else y": None,
    "if x.dtype is torch.float64: y = -y": None,
    "y = -y if x.dtype in (torch.float32, torch.float64) else y": None,
    "y = -y if isinstance(x.shape, torch.Size) else y": None,
    "y = -y if y.layout is torch.strided else y": None,
    "y = -y if y.requires_grad is True else y": None,
    "y = -y if y.grad_fn is not None else y": None,
    "y = -y if x.grad is None else y": None,
    "y = y if hasattr(y, 'node') else -y": None,
    "y = y if not isinstance(x, torch.Tensor) or isinstance(x, (list, tuple)) else -y": None,
    "try:\n    n = len(y)\nexcept Exception:\n    n = 1\ny = y * n": None,
    "try:\n    y = -y if y.sum() < 1e9 else y\nexcept Exception:\n    pass": None,
    "with contextlib.suppress(Exception):\n    y = -y if y.sum() < 1e9 else y": None,
    "y = sum([z for z in (y, -2 * x[:, :3]) if isinstance(z, torch.Tensor)])": None,
    "y = y * ((torch.is_tensor(y) and -1) or 1)": None,
    "y = -y if torch.is_grad_enabled() else y": None,
    # arguments of the call
    "if b is not None and a is None: y = -y": {"b": 1},
    "y = -y if a is True else y": {"a": True},
    "y = -y if a is MISSING else y": {"a": MISSING},
    "y = -y if isinstance(a, dict) else y": {"a": {}},
    "y = (y, -y)[a is MISSING]": {"a": MISSING},
    "y = (a or keep)(y) if a is not None and callable(a) else y": {"a": torch.neg},
    # counters
    "self.step += 1\nif self.step > 2: y = -y": None,
    "self.n += 1\nif self.n > 2: y = -y": None,
    "self.n = getattr(self, 'n') + 1\ny = -y if getattr(self, 'n') > 2 else y": None,
    "self.__dict__['n'] += 1\ny = -y if self.__dict__['n'] > 2 else y": None,
    "setattr(self, 'n', self.n + 1)\ny = -y if self.n > 2 else y": None,
    "self.cfg['n'] += 1\ny = -y if self.cfg['n'] > 2 else y": None,
    "global count\ncount += 1\ny = -y if count % 2 == 0 else y": None,
    "self.n += 1\nn = self.n\nwhile n > 2: y, n = -y, 0": None,
    # changes that comparing plain attributes does not detect
    "y = -y if self.cfg.get('flip') else y": lambda model: model.cfg.update(flip=True),
    "y = -y if self.config.flip else y": lambda model: vars(model.config).update(flip=True),
    "for name in self.config.names: y = getattr(y, name)()": lambda model: vars(model.config).update(names=("neg",)),
    "for function in self.functions: y = function(y)": lambda model: model.functions.append(torch.neg),
    "y = -y if hasattr(self, '_on') else y": set_to(_on=True),
    "y = -y if self.scale > 0 else y": lambda model: model.scale.add_(1),
    "y = -y if self.training and not self.bn.training else y": lambda model: model.bn.eval(),
    # random numbers
    "y = y + 1 if torch.rand(1) < 0.5 else y": None,
    "if random.random() < 0.5: y = y + 1": None,
}  # fmt: skip
FUSED_UNTIL_CHANGED = {
    "y = self.function(y)": set_to(function=torch.neg),
    "for _ in range(self.n): y = -y": set_to(n=1),
    "y = y if self.extra is None else self.extra(y)": lambda model: setattr(model, "extra", Negative()),
    "for part in self.parts: y = part(y)": lambda model: model.parts.append(Negative()),
    "if self.parts: y = self.parts[-1](y)": lambda model: model.parts.append(Negative()),
    "y = -y if self.flag else y": set_to(flag=True),
    "y = -y if self.mode == 'turn' else y": set_to(mode="turn"),
}
FUSED = {
    """
if self.training:
    self.step.add_(1)
if isinstance(y, list):
    raise TypeError
y = y if self.training else keep(y)""": None,
    """
for i, part in enumerate(self.parts):
    last = i == len(self.parts) - 1
    y = part(y) if last else 2 * part(y)
for name, part in self.parts.named_children():
    y = part(y) + self.parts[int(name)](y)
y = sum([part(y) for part in self.parts if self.n < 3], y)""": None,
    """
with torch.no_grad(), torch.autocast("cpu", enabled=False):
    self.step.add_(1)
self.functions.append(self.n)
self.last: list[torch.Tensor] = [x]""": None,
    """
def inner(z):
    return self.function(z) if self.extra is None else z
y = checkpoint(lambda z: inner(z), y, use_reentrant=False)""": None,
}


def trained(model, options):
    """The outputs, the gradients and the final state of three steps."""
    torch.manual_seed(0)
    random.seed(0)
    globals()["count"] = 0
    found = []
    for _ in range(3):
        model.zero_grad()
        y = model(X, **options)
        y.square().sum().backward()
        found += [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return [*found, *(x.clone() for x in model.buffers())]


def assert_trained_alike(ours, model, **options):
    torch.testing.assert_close(trained(ours, options), trained(model, options), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("act", (nn.LeakyReLU(0.1), nn.ReLU()), ids=repr)
@pytest.mark.parametrize("between", NOT_FUSED | FUSED_UNTIL_CHANGED | FUSED)
def test_data_dependent_forward(between, act):
    model = module(f"y = self.lin(x)\n{between}\nreturn self.out(self.act(y))", Model, act=act).double()
    ours = copy.deepcopy(model)
    with torch.set_grad_enabled("is_grad_enabled" not in between):
        assert convert(ours).fused == ({} if between in NOT_FUSED else {"lin": "act"})
    if between not in NOT_FUSED:
        assert fused_in(copy.deepcopy(ours), X) == 1
        ours.bn.eval()  # nothing depends on its mode
        model.bn.eval()
        assert fused_in(copy.deepcopy(ours), X) == 1
    change = (NOT_FUSED | FUSED_UNTIL_CHANGED | FUSED)[between]
    if callable(change):
        for each in (model, ours):
            change(each)
    assert_trained_alike(ours, model, **(change if isinstance(change, dict) else {}))


class Part(nn.Module):
    def forward(self, x):
        return -x if self.training else x


def test_a_submodule_in_another_mode():
    model = nn.Sequential(nn.Linear(5, 3), nn.Sequential(), nn.ReLU(), Part()).double()
    ours = copy.deepcopy(model)
    assert convert(ours).fused == {"0": "2"}
    assert fused_in(ours, X) == 1
    ours[3].eval()
    assert fused_in(ours, X) == 0
    model[3].eval()
    assert_trained_alike(ours, model)


def add_between(model):
    act = model.act
    del model.act
    model.add_module("negative", Negative())
    model.add_module("act", act)


CHANGES = {
    "add between": add_between,
    "add in an empty part": lambda model: model.empty.append(Negative()),
    "move": lambda model: model._modules.update(lin=model._modules.pop("lin")),
    "share the layer": lambda model: setattr(model, "out", model.lin),
    "share the layer before": lambda model: setattr(model, "first", model.lin),
    "share the activation": lambda model: setattr(model, "last", model.act),
    "override": lambda model: setattr(model.empty, "forward", torch.neg),
}


@pytest.mark.parametrize("act", (nn.LeakyReLU(0.1), nn.ReLU()), ids=repr)
@pytest.mark.parametrize("change", CHANGES)
def test_rearranged_children(change, act):
    names = {"first": nn.Linear(5, 5), "lin": nn.Linear(5, 5), "empty": nn.Sequential(), "act": act}
    model = nn.Sequential(collections.OrderedDict(names, out=nn.Linear(5, 5), last=nn.Tanh())).double()
    ours = copy.deepcopy(model)
    assert convert(ours).fused == {"lin": "act", "out": "last"}
    for each in (model, ours):
        CHANGES[change](each)
    assert_trained_alike(ours, model)


def test_a_forward_that_counts_its_calls_in_the_class():
    model = module("type(self).calls += 1\nreturn self.out(self.act(self.lin(x)))", Model)
    type(model).calls = 0
    assert not convert(model).fused
    before = type(model).calls
    model(X.float())
    assert type(model).calls == before + 1


@pytest.mark.parametrize("inside", (False, True))
def test_a_graph_module_is_not_an_owner(inside):
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(5, 3), nn.ReLU()).double())
    expected = model(X)
    report = convert(nn.Sequential(model, nn.Identity()) if inside else model)
    assert len(report.replaced) == 2
    assert [why for why in report.unfused.values() if "torch.fx" in why]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        other.recompile()
        torch.testing.assert_close(other(X), expected)


def test_fake_tensors_are_not_copied():
    def made():
        return nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.ReLU())

    real = made()
    with FakeTensorMode():
        fake = made()
        for model in (real, fake):
            assert convert(model).unfused == {"": "does not trace (its tensors are fake)"}
        assert fake(torch.randn(4, 5)).shape == (4, 3)
    convert(fake)
    assert convert(real).fused == {"1": "2"}
    real(X.float()).sum().backward()


def test_under_a_profiler():
    """Python's profiler is restored, and another profiler is not touched."""
    seen = []

    def see(*event):
        seen.append(event)

    sys.setprofile(see)
    try:
        convert(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
        assert sys.getprofile() is see
    finally:
        sys.setprofile(None)
    profiler = cProfile.Profile()
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    report = profiler.runcall(convert, model)
    assert report.fused or "profiler" in report.unfused[""]
    assert any("trace" in str(entry.code) or "convert" in str(entry.code) for entry in profiler.getstats())


def test_callbacks_of_the_garbage_collector_are_not_part_of_the_model():
    def called(phase, info):
        if phase == "start":
            calls.append(info)

    calls = []
    before = gc.get_threshold()
    gc.callbacks.append(called)
    gc.set_threshold(1)
    try:
        assert convert(nn.Sequential(nn.Linear(3, 3), nn.ReLU())).fused
    finally:
        gc.callbacks.remove(called)
        gc.set_threshold(*before)
    assert calls
    assert gc.isenabled()
