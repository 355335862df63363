"""A model that writes over its tensors runs after convert as it ran before."""

import copy
import random
import unittest.mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchnotes.nn
from conversion_checks import assert_same, compare, results
from torchnotes import convert
from torchnotes import functional as ours_F
from torchnotes.conversion import _converted

X, CLASSES = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 2, 1])


class Model(nn.Module):
    """Whose forward does something to the result of a LeakyReLU, or to logits after the loss."""

    def __init__(self, do):
        super().__init__()
        self.lin, self.act, self.out, self.loss = (
            nn.Linear(4, 4),
            nn.LeakyReLU(),
            nn.Linear(4, 4),
            nn.CrossEntropyLoss(),
        )
        self.relu, self.flat, self.tanh = nn.ReLU(inplace=True), nn.Flatten(), nn.Hardtanh(inplace=True)
        self.dropout, self.do = nn.Dropout(1.0, inplace=True), do
        self.out.requires_grad_(False)  # or it saves its input


class Activated(Model):
    def forward(self, x):
        y = self.act(self.lin(x))
        self.do(self, y)
        return self.out(y)


class Lossy(Model):
    def forward(self, x):
        logits = self.lin(x)
        loss = self.loss(logits, CLASSES)
        self.do(self, logits)
        return loss


def set_item(y):
    y[0] = 0


def augmented(self, y):
    y += 1


def augmented_item(self, y):
    y[:, 1] *= 2


def out(self, y):
    with torch.no_grad():
        torch.mul(y, 2, out=y)


def several_out(self, y):
    with torch.no_grad():
        torch.sort(2 * y, out=(y, torch.empty(5, 4, dtype=torch.int64)))


def in_a_condition(self, y):
    if y.sum() < 1e9:
        y.add_(1)


def in_a_function_in_a_condition(self, y):
    if y.sum() < 1e9:
        (lambda z: set_item(z))(y)


def in_a_loop(self, y):
    for i in range(len(y)):
        y[i].mul_(2)


def renormalized(self, y):
    F.embedding(torch.tensor([0, 1]), y.detach(), max_norm=0.1)


def renormalized_by_position(self, y):
    F.embedding_bag(torch.tensor([[0, 1]]), y, None, 0.1)


def averaged(self, y):
    F.batch_norm(2 * X, y.detach()[0], y.detach()[1], training=True)


WRITES = {
    "method": lambda self, y: y.add_(1),
    "function": lambda self, y: torch.relu_(y),
    "functional with an underscore": lambda self, y: F.leaky_relu_(y, 0.3),
    "functional by position": lambda self, y: F.relu(y, True),
    "functional by name": lambda self, y: F.relu(y, inplace=True),
    "with a slope": lambda self, y: F.leaky_relu(y, 0.3, True),
    "dropout": lambda self, y: F.dropout(y, 0.5, True, True),
    "dropout in training": lambda self, y: F.dropout(y, training=self.training, inplace=True),
    "ours": lambda self, y: ours_F.leaky_relu(y, inplace=True),
    "our dropout": lambda self, y: ours_F.dropout(y, 0.5, self.training, True),
    "item": lambda self, y: set_item(y),
    "view": lambda self, y: y.view(-1).mul_(2),
    "part": lambda self, y: y[:2].zero_(),
    "one of several parts": lambda self, y: torch.stack([p.detach().mul_(2) for p in (y[:1], y[1:2])]),
    "detached": lambda self, y: y.detach().mul_(2),
    "module": lambda self, y: self.relu(y),
    "module of dropout": lambda self, y: self.dropout(y),
    "module after a view": lambda self, y: self.tanh(self.flat(y)),
    "several": lambda self, y: torch._foreach_mul_([y], 2.0),
} | {
    f.__name__: f
    for f in (
        *(augmented, augmented_item, out, several_out, in_a_condition, in_a_function_in_a_condition, in_a_loop),
        *(renormalized, renormalized_by_position, averaged),
    )
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_is_overwritten_stays_torchs(write):
    report = compare(Activated(write), X)
    assert "overwrite its result" in report.kept["act"]
    assert not report.fused
    assert "overwrite its logits" in compare(Lossy(write), X).kept["loss"]


READS = {
    "nothing": lambda self, y: None,
    "function": lambda self, y: y + y.sum(1, keepdim=True),
    "modules": lambda self, y: self.out(self.flat(y)),
    "write to what is new": lambda self, y: (2 * y).add_(1),
    "not in place": lambda self, y: F.relu(y, False) + F.dropout(y, inplace=False),
    "embedded": lambda self, y: F.embedding(torch.tensor([0, 1]), y),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_is_only_read_becomes_ours(read):
    report = compare(Activated(read), X)
    assert report.fused == {"lin": "act"}
    assert "act" not in report.kept
    assert "loss" in compare(Lossy(read), X).replaced


def test_the_result_or_the_logits_are_all_that_is_saved_where_nobody_writes():
    activated, lossy = Activated(READS["function"]), Lossy(READS["nothing"])
    convert(activated, fuse=False)
    convert(lossy)
    with unittest.mock.patch.object(_converted, "leaky_relu_of_saved_input") as otherwise:
        activated(X.float())
    assert not otherwise.called
    assert "Linear" in lossy(X.float()).grad_fn.next_functions[0][0].name()  # no copy


def keep_as_attribute(self, y):
    self.kept = y


def keep_in_a_list(self, y):
    self.kept = [{"y": y}]


@pytest.mark.parametrize("keep", (keep_as_attribute, keep_in_a_list))
def test_what_forward_keeps_may_be_overwritten(keep):
    model = Activated(keep).double()
    ours = copy.deepcopy(model)
    assert not convert(ours).fused
    found = []
    for each in (ours, model):
        found.append(results(each, X, write=lambda _, m=each: torch.utils._pytree.tree_leaves(m.kept)[0].add_(1)))
    torch.testing.assert_close(*found)


class Filling(Model):
    def forward(self, x, kept):
        y = self.act(self.lin(x))
        return self.out(y), self.do(kept, y)


def append(kept, y):
    kept.append(y)


def extend(kept, y):
    kept += [y]


def set_first(kept, y):
    kept[0] = y


def concatenate(kept, y):
    return kept + [y]  # noqa: RUF005


@pytest.mark.parametrize("put", (append, extend, set_first, concatenate))
def test_what_forward_gives_to_the_caller_may_be_overwritten(put):
    model = Filling(put).double()
    ours = copy.deepcopy(model)
    assert not convert(ours).fused
    gradients = []
    for each in (model, ours):
        kept = [None]
        y, more = each(X, kept)
        (more or kept)[0 if put is set_first else -1].add_(1)
        gradients.append(torch.autograd.grad(y.sum(), each.lin.weight))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("write", (lambda y: y.add_(1), set_item))
def test_what_leaves_the_model_may_be_overwritten(write):
    for model in (
        nn.LeakyReLU(),
        nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU()),
        nn.Sequential(nn.BatchNorm1d(4), nn.LeakyReLU(), nn.Flatten(0)),
    ):
        assert "LeakyReLU" in compare(model, X, write=write).replaced.values()


def test_logits_are_overwritten_after_a_loss_that_stands_alone():
    loss = nn.CrossEntropyLoss()
    convert(loss)
    assert isinstance(loss, torchnotes.nn.CrossEntropyLoss)
    x = X.clone().requires_grad_()
    logits = 2 * x
    value = loss(logits, CLASSES)
    logits.zero_()
    value.backward()
    torch.testing.assert_close(x.grad, torch.func.grad(lambda x: F.cross_entropy(2 * x, CLASSES))(X))


@pytest.mark.parametrize("register", ("register_forward_hook", "register_forward_pre_hook"))
@pytest.mark.parametrize("late", (False, True))
def test_a_hook_writes(register, late):
    model = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(), nn.Linear(4, 4)).double()
    ours = copy.deepcopy(model)

    def write(module, args, *result):
        (result or args)[0].add_(1)

    for each in (model, ours):
        if late and each is ours:
            convert(each)
        getattr(each[2 if "pre" in register else 1], register)(write)
        if not late and each is ours:
            convert(each)
    assert_same(ours, model, X)


LAYERS = (
    *(lambda: nn.Linear(4, 4), lambda: nn.BatchNorm1d(4), lambda: nn.ReLU(), lambda: nn.ReLU(inplace=True)),
    *(lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(0.2, inplace=True), lambda: nn.Sigmoid(), lambda: nn.Tanh()),
    *(lambda: nn.Dropout(0.0, inplace=True), lambda: nn.Hardtanh(inplace=True), lambda: nn.Identity()),
    lambda: nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU()),
    lambda: nn.Sequential(nn.BatchNorm1d(4), nn.LeakyReLU(), nn.Linear(4, 4)),
)
STEPS = (
    *(lambda h: h[-1].add_(1), lambda h: set_item(h[-1]), lambda h: augmented_item(None, h[-1])),
    *(lambda h: out(None, h[-1]), lambda h: h[-1].view(-1).mul_(1.5), lambda h: in_a_condition(None, h[-1])),
    *(lambda h: h[len(h) // 2].mul_(0.5), lambda h: F.leaky_relu(h[-1], 0.3, True)),
    *(lambda h: h.append(h[-1] * 1), lambda h: h.append(h[-1] + h[0]), lambda h: h.append(h[-1])),
)


class Apply(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h):
        h.append(self.layer(h[-1]))


class Do(nn.Module):
    def __init__(self, do):
        super().__init__()
        self.do = do

    def forward(self, h):
        self.do(h)


class Random(nn.Module):
    """Random layers, whose results random steps write over."""

    def __init__(self, generator):
        super().__init__()
        self.steps, self.out, self.loss = nn.ModuleList(), nn.Linear(4, 4), nn.CrossEntropyLoss()
        for _ in range(generator.randint(1, 6)):
            self.steps.append(Apply(generator.choice(LAYERS)()))
            while generator.random() < 0.35:
                self.steps.append(Do(generator.choice(STEPS)))

    def forward(self, x):
        h = [x]
        for step in self.steps:
            step(h)
        return self.loss(self.out(h[-1]), CLASSES) + h[0].sum() + h[-1].sum()


def test_random_programs():
    ran = fused = 0
    for seed in range(60):
        torch.manual_seed(seed)
        model = Random(random.Random(seed)).double()
        try:
            results(model, X)
        except RuntimeError:  # torch refuses it
            continue
        ran += 1
        fused += len(compare(model, X, inplace=seed % 2 == 1).fused)
    assert ran > 30
    assert fused > 8
