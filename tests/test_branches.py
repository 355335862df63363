"""A model whose forward may go another way than it went when it was converted computes what it did."""

import collections
import contextlib
import copy
import cProfile
import gc
import pickle
import random
import sys

import numpy
import pytest
import torch
import torch.fx
from test_conversion import fused_in
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from torchnotes import convert

X = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5)
MISSING = object()
count = 0


class Config:
    flip, names = False, ()


class Model(nn.Module):
    """A layer and its activation, and what a forward may do between the two."""

    def __init__(self):
        super().__init__()
        self.lin, self.act, self.bn, self.out = nn.Linear(5, 3), nn.LeakyReLU(0.1), nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.extra, self.neck, self.parts = None, nn.Identity(), nn.ModuleList()
        self.register_buffer("step", torch.zeros(()))
        self.cfg, self.config, self.functions, self.n, self.scale = {"n": 0}, Config(), [], 0, torch.zeros(())
        self.function, self.flag, self.mode = keep, False, "keep"


def keep(y):
    return y


def model_of(between):
    """A class whose forward has the function between its layer and its activation."""

    class Between(Model):
        def forward(self, x, a=None, b=None):
            y = between(self, self.lin(x), x, a, b)
            return self.out(self.act(y))

    return Between().double()


def tensor_type(self, y, x, a, b):
    if isinstance(y, torch.Tensor):
        y = -y
    return y


def exact_type(self, y, x, a, b):
    return -y if type(y) is torch.Tensor else y


def is_tensor(self, y, x, a, b):
    return -y if torch.is_tensor(y) else y


def dtype(self, y, x, a, b):
    if x.dtype is torch.float64:
        y = -y
    return y


def dtypes(self, y, x, a, b):
    return -y if x.dtype in (torch.float32, torch.float64) else y


def shape_type(self, y, x, a, b):
    return -y if isinstance(x.shape, torch.Size) else y


def layout(self, y, x, a, b):
    return -y if y.layout is torch.strided else y


def requires_grad(self, y, x, a, b):
    return -y if y.requires_grad is True else y


def grad_fn(self, y, x, a, b):
    return -y if y.grad_fn is not None else y


def no_grad_yet(self, y, x, a, b):
    return -y if x.grad is None else y


def has_attribute(self, y, x, a, b):
    return y if hasattr(y, "node") else -y


def is_list(self, y, x, a, b):
    return y if not isinstance(x, torch.Tensor) or isinstance(x, (list, tuple)) else -y


def length(self, y, x, a, b):
    try:
        n = len(y)
    except Exception:
        n = 1
    return y * n


def swallowed(self, y, x, a, b):
    try:
        if y.sum() < 1e9:
            y = -y
    except Exception:
        pass
    return y


def suppressed(self, y, x, a, b):
    with contextlib.suppress(Exception):
        y = -y if y.sum() < 1e9 else y
    return y


def in_a_comprehension(self, y, x, a, b):
    return sum([z for z in (y, -2 * x[:, :3]) if isinstance(z, torch.Tensor)])


def in_a_conjunction(self, y, x, a, b):
    return y * ((torch.is_tensor(y) and -1) or 1)


def one_without_the_other(self, y, x, a, b):
    if b is not None and a is None:
        y = -y
    return y


def is_true(self, y, x, a, b):
    return -y if a is True else y


def is_missing(self, y, x, a, b):
    return -y if a is MISSING else y


def is_dict(self, y, x, a, b):
    return -y if isinstance(a, dict) else y


def choice_of_argument(self, y, x, a, b):
    return (y, -y)[a is MISSING]


def called_argument(self, y, x, a, b):
    return (a or keep)(y) if a is not None and callable(a) else y


def buffer(self, y, x, a, b):
    self.step += 1
    if self.step > 2:
        y = -y
    return y


def counter(self, y, x, a, b):
    self.n += 1
    if self.n > 2:
        y = -y
    return y


def counter_by_name(self, y, x, a, b):
    self.n = getattr(self, "n") + 1  # noqa: B009
    return -y if getattr(self, "n") > 2 else y  # noqa: B009


def counter_in_vars(self, y, x, a, b):
    self.__dict__["n"] += 1
    return -y if self.__dict__["n"] > 2 else y


def counter_set_by_name(self, y, x, a, b):
    setattr(self, "n", self.n + 1)  # noqa: B010
    return -y if self.n > 2 else y


def counter_in_a_dict(self, y, x, a, b):
    self.cfg["n"] += 1
    return -y if self.cfg["n"] > 2 else y


def counter_of_all(self, y, x, a, b):
    global count
    count += 1
    return -y if count % 2 == 0 else y


def counter_by_alias(self, y, x, a, b):
    self.n += 1
    n = self.n
    while n > 2:
        y, n = -y, 0
    return y


def option(self, y, x, a, b):
    return -y if self.cfg.get("flip") else y


def attribute_of_option(self, y, x, a, b):
    return -y if self.config.flip else y


def each_option(self, y, x, a, b):
    for name in self.config.names:
        y = getattr(y, name)()
    return y


def each_function(self, y, x, a, b):
    for function in self.functions:
        y = function(y)
    return y


def own_function(self, y, x, a, b):
    return self.function(y)


def number(self, y, x, a, b):
    for _ in range(self.n):
        y = -y
    return y


def added_attribute(self, y, x, a, b):
    return -y if hasattr(self, "_on") else y


def tensor(self, y, x, a, b):
    return -y if self.scale > 0 else y


def frozen(self, y, x, a, b):
    return -y if self.training and not self.bn.training else y


def grad_mode(self, y, x, a, b):
    return -y if torch.is_grad_enabled() else y


def drawn(self, y, x, a, b):
    return y + 1 if torch.rand(1) < 0.5 else y


def drawn_by_python(self, y, x, a, b):
    if random.random() < 0.5:
        y = y + 1
    return y


def optional_child(self, y, x, a, b):
    return y if self.extra is None else self.extra(y)


def each_child(self, y, x, a, b):
    for part in self.parts:
        y = part(y)
    return y


def some_child(self, y, x, a, b):
    if self.parts:
        y = self.parts[-1](y)
    return y


def flag(self, y, x, a, b):
    return -y if self.flag else y


def mode(self, y, x, a, b):
    return -y if self.mode == "turn" else y


def changed(module, **attributes):
    for name, value in attributes.items():
        setattr(module, name, value)


class Negative(nn.Module):
    def forward(self, x):
        return -x


CALLS = {  # by the function between the two: what changes before the call, and its arguments
    tensor_type: None, exact_type: None, is_tensor: None, dtype: None, dtypes: None, shape_type: None, layout: None,
    requires_grad: None, grad_fn: None, no_grad_yet: None, has_attribute: None, is_list: None, length: None,
    swallowed: None, suppressed: None, in_a_comprehension: None, in_a_conjunction: None,
    one_without_the_other: {"b": 1}, is_true: {"a": True}, is_missing: {"a": MISSING}, is_dict: {"a": {}},
    choice_of_argument: {"a": MISSING}, called_argument: {"a": torch.neg},
    buffer: None, counter: None, counter_by_name: None, counter_in_vars: None, counter_set_by_name: None,
    counter_in_a_dict: None, counter_of_all: None, counter_by_alias: None,
    option: lambda model: model.cfg.update(flip=True),
    attribute_of_option: lambda model: changed(model.config, flip=True),
    each_option: lambda model: changed(model.config, names=("neg",)),
    each_function: lambda model: model.functions.append(torch.neg),
    own_function: lambda model: changed(model, function=torch.neg),
    number: lambda model: changed(model, n=1),
    added_attribute: lambda model: changed(model, _on=True),
    tensor: lambda model: model.scale.add_(1),
    frozen: lambda model: model.bn.eval(),
    grad_mode: None, drawn: None, drawn_by_python: None,
    optional_child: lambda model: changed(model, extra=Negative()),
    each_child: lambda model: model.parts.append(Negative()),
    some_child: lambda model: model.parts.append(Negative()),
    flag: lambda model: changed(model, flag=True),
    mode: lambda model: changed(model, mode="turn"),
}  # fmt: skip


def in_training(self, y, x, a, b):
    if self.training:
        self.step.add_(1)
    if isinstance(y, list):
        raise TypeError
    return y if self.training else keep(y)


def over_children(self, y, x, a, b):
    for i, part in enumerate(self.parts):
        last = i == len(self.parts) - 1
        y = part(y) if last else 2 * part(y)
    for name, part in self.parts.named_children():
        y = part(y) + self.parts[int(name)](y)
    return sum([part(y) for part in self.parts if self.n < 3], y)


def in_contexts(self, y, x, a, b):
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        self.step.add_(1)
    self.functions.append(self.n)
    self.last: list[torch.Tensor] = [x]
    return y


def by_others(self, y, x, a, b):
    def inner(z):
        return self.function(z) if self.extra is None else z

    return checkpoint(lambda z: inner(z), y, use_reentrant=False)


STEADY = {in_training, over_children, in_contexts, by_others}
GUARDED = {flag, own_function, number, mode, optional_child, each_child, some_child}


def trained(model, options):
    """Outputs, gradients and what is left after three steps."""
    torch.manual_seed(0)
    random.seed(0)
    found = []
    for _ in range(3):
        model.zero_grad()
        y = model(X, **options)
        y.square().sum().backward()
        found += [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return [*found, *(x.clone() for x in model.buffers())]


@pytest.mark.parametrize("act", (nn.LeakyReLU(0.1), nn.ReLU()), ids=repr)
@pytest.mark.parametrize("between", CALLS, ids=lambda f: f.__name__)
def test_a_forward_that_may_go_another_way(between, act, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "count", 0)
    change = CALLS[between]
    models = [model_of(between)]
    models[0].act = act
    models.append(copy.deepcopy(models[0]))
    with torch.no_grad() if between is grad_mode else contextlib.nullcontext():
        assert bool(convert(models[1]).fused) == (between in GUARDED)
    results = []
    for model in models:
        monkeypatch.setattr(sys.modules[__name__], "count", 0)
        if callable(change):
            change(model)
        results.append(trained(model, change if isinstance(change, dict) else {}))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("between", STEADY | GUARDED, ids=lambda f: f.__name__)
def test_a_forward_that_goes_the_same_way_is_fused(between):
    model = model_of(between)
    ours = copy.deepcopy(model)
    assert convert(ours).fused == {"lin": "act"}
    torch.testing.assert_close(trained(ours, {}), trained(model, {}), rtol=1e-9, atol=1e-9)
    assert fused_in(ours, X) == 1
    ours.bn.eval()  # whose mode nothing depends on
    assert fused_in(ours, X) == 1


class Part(nn.Module):
    def forward(self, x):
        return -x if self.training else x


def test_a_part_in_another_mode():
    model = nn.Sequential(nn.Linear(5, 3), nn.Sequential(), nn.ReLU(), Part()).double()
    ours = copy.deepcopy(model)
    assert convert(ours).fused == {"0": "2"}
    assert fused_in(ours, X) == 1
    ours[3].eval()
    assert fused_in(ours, X) == 0
    model[3].eval()
    torch.testing.assert_close(trained(ours, {}), trained(model, {}), rtol=1e-9, atol=1e-9)


def add_between(model):
    act = model.act
    del model.act
    model.add_module("negative", Negative())
    model.add_module("act", act)


def add_in_an_empty_part(model):
    model.empty.append(Negative())


def move(model):
    model._modules["lin"] = model._modules.pop("lin")


def share_the_layer(model):
    model.out = model.lin


def share_the_layer_before(model):
    model.first = model.lin


def share_the_activation(model):
    model.last = model.act


def override(model):
    model.empty.forward = torch.neg


@pytest.mark.parametrize("act", (nn.LeakyReLU(0.1), nn.ReLU()), ids=repr)
@pytest.mark.parametrize(
    "change",
    (add_between, add_in_an_empty_part, move, share_the_layer, share_the_layer_before, share_the_activation, override),
)
def test_children_that_change_place(change, act):
    names = {"first": nn.Linear(5, 5), "lin": nn.Linear(5, 5), "empty": nn.Sequential(), "act": act}
    model = nn.Sequential(collections.OrderedDict(names, out=nn.Linear(5, 5), last=nn.Tanh())).double()
    ours = copy.deepcopy(model)
    assert convert(ours).fused == {"lin": "act", "out": "last"}
    for each in (model, ours):
        change(each)
    torch.testing.assert_close(trained(ours, {}), trained(model, {}), rtol=1e-9, atol=1e-9)


class Counting(Model):
    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return self.out(self.act(self.lin(x)))


def test_a_forward_that_counts_its_calls_in_the_class():
    model = Counting()
    assert not convert(model).fused
    before = Counting.calls
    model(X.float())
    assert Counting.calls == before + 1


@pytest.mark.parametrize("inside", (False, True))
def test_a_graph_module_is_no_owner(inside):
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


class Renormalising(Model):
    def forward(self, x):
        y = self.act(self.lin(x))
        F.embedding(torch.tensor([0, 1]), y.detach(), max_norm=0.1)
        F.embedding_bag(torch.tensor([[0, 1]]), y, None, 0.1)
        return self.out(y)


class Averaging(Model):
    def forward(self, x):
        y = self.act(self.lin(x))
        F.batch_norm(x[:, :3], y.detach()[0], y.detach()[1], training=True)
        return self.out(y)


def test_functions_that_write_without_saying_so():
    for kind in (Renormalising, Averaging):
        model = kind().double()
        model.out.requires_grad_(False)  # or it saves its input
        ours = copy.deepcopy(model)
        assert "overwrite" in convert(ours).kept["act"]
        torch.testing.assert_close(trained(ours, {}), trained(model, {}), rtol=1e-9, atol=1e-9)


class Drawing(Model):
    def forward(self, x):
        return self.out(self.act(self.lin(x))) * (random.random() + numpy.random.rand())


def test_random_numbers_are_those_that_would_have_come():
    states = random.getstate(), numpy.random.get_state()
    assert convert(Drawing()).fused
    numpy.testing.assert_equal((random.getstate(), numpy.random.get_state()), states)


def test_under_a_profiler():
    """Which is told what runs: one of Python's is set again, and another is left alone."""
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
