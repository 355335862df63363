"""convert preserves the results of models that write in place."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchnotes.nn
from conversion_checks import assert_same, compare, module, results
from torchnotes import convert
from torchnotes import functional as ours_F  # noqa: F401 # used by the sources below

X, CLASSES = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 2, 1])


def set_item(y):
    y[0] = 0


def activated(source: str) -> nn.Module:
    """Runs the source on the output of a LeakyReLU."""
    return made(f"y = self.act(self.lin(x))\n{source}\nreturn self.out(y)")


def lossy(source: str) -> nn.Module:
    """Runs the source on the logits after the loss."""
    return made(f"y = self.lin(x)\nloss = self.loss(y, CLASSES)\n{source}\nreturn loss")


def made(source: str, **arguments: str) -> nn.Module:
    layers = {"lin": nn.Linear(4, 4), "act": nn.LeakyReLU(), "out": nn.Linear(4, 4), "loss": nn.CrossEntropyLoss()}
    others = {"relu": nn.ReLU(inplace=True), "flat": nn.Flatten(), "tanh": nn.Hardtanh(inplace=True)}
    model = module(source, dropout=nn.Dropout(1.0, inplace=True), **layers, **others, **arguments).double()
    model.out.requires_grad_(False)  # otherwise it saves its input
    return model


WRITES = (
    *("y.add_(1)", "y += 1", "y[0] = 0", "y[:, 1] *= 2", "set_item(y)", "y.view(-1).mul_(2)", "y[:2].zero_()"),
    *("y.detach().mul_(2)", "torch.stack([p.detach().mul_(2) for p in (y[:1], y[1:2])])"),
    *("torch._foreach_mul_([y], 2.0)", "with torch.no_grad(): torch.mul(y, 2, out=y)"),
    "with torch.no_grad(): torch.sort(2 * y, out=(y, torch.empty(5, 4, dtype=torch.int64)))",
    # in-place functions: an underscore, or the option inplace by position or by keyword
    *("torch.relu_(y)", "F.leaky_relu_(y, 0.3)", "F.relu(y, True)", "F.relu(y, inplace=True)"),
    *("F.leaky_relu(y, 0.3, True)", "F.dropout(y, 0.5, True, True)", "F.elu(y, inplace=True)"),
    *("F.dropout(y, training=self.training, inplace=True)", "ours_F.leaky_relu(y, inplace=True)"),
    "ours_F.dropout(y, 0.5, self.training, True)",
    # modules
    *("self.relu(y)", "self.dropout(y)", "self.tanh(self.flat(y))"),
    # code that torch.fx cannot trace
    *("if y.sum() < 1e9: y.add_(1)", "if y.sum() < 1e9: (lambda z: set_item(z))(y)"),
    "for i in range(len(y)): y[i].mul_(2)",
    # functions that modify an argument without saying so
    *("F.embedding(torch.tensor([0, 1]), y.detach(), max_norm=0.1)",),
    "F.embedding_bag(torch.tensor([[0, 1]]), y, None, 0.1)",
    "F.batch_norm(2 * X, y.detach()[0], y.detach()[1], training=True)",
)
READS = (
    *("pass", "y + y.sum(1, keepdim=True)", "self.out(self.flat(y))", "(2 * y).add_(1)"),
    *("F.relu(y, False) + F.dropout(y, inplace=False)", "F.embedding(torch.tensor([0, 1]), y)"),
)


@pytest.mark.parametrize("source", WRITES)
def test_modules_whose_tensors_are_overwritten_stay_torchs(source):
    report = compare(activated(source), X)
    assert "overwrite its result" in report.kept["act"]
    assert not report.fused
    assert "overwrite its logits" in compare(lossy(source), X).kept["loss"]


@pytest.mark.parametrize("source", READS)
def test_modules_whose_tensors_are_only_read_become_ours(source):
    report = compare(activated(source), X)
    assert report.fused == {"lin": "act"}
    assert "act" not in report.kept
    assert "loss" in compare(lossy(source), X).replaced


def test_only_the_result_or_the_logits_are_saved_if_nothing_overwrites_them():
    of_result, of_logits = activated("y + y.sum()"), lossy("pass")
    convert(of_result, fuse=False)
    convert(of_logits)
    assert of_result(X).grad_fn.next_functions[0][0].name() == "LeakyReLUBackward"  # Falling... saves the input
    assert "Linear" in of_logits(X).grad_fn.next_functions[0][0].name()  # no copy


@pytest.mark.parametrize("keep", ("self.kept = y", "self.kept = [{'y': y}]"))
def test_tensors_that_forward_stores_may_be_overwritten(keep):
    model = activated(keep)
    ours = copy.deepcopy(model)
    assert not convert(ours).fused
    found = []
    for each in (ours, model):
        found.append(results(each, X, write=lambda _, m=each: torch.utils._pytree.tree_leaves(m.kept)[0].add_(1)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("put", ("a.append(y)", "a += [y]", "a[-1] = y", "b = a + [y]"))
def test_tensors_that_forward_passes_to_the_caller_may_be_overwritten(put):
    model = made(f"b = None\ny = self.act(self.lin(x))\n{put}\nreturn self.out(y), b", others="a")
    ours = copy.deepcopy(model)
    report = convert(ours)
    assert not report.fused
    assert "" not in report.unfused  # it traces
    gradients = []
    for each in (model, ours):
        kept = [None]
        y, more = each(X, kept)
        (more or kept)[-1].add_(1)
        gradients.append(torch.autograd.grad(y.sum(), each.lin.weight))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("write", (lambda y: y.add_(1), set_item))
def test_outputs_of_the_model_may_be_overwritten(write):
    for model in (
        nn.LeakyReLU(),
        nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU()),
        nn.Sequential(nn.BatchNorm1d(4), nn.LeakyReLU(), nn.Flatten(0)),
    ):
        assert "LeakyReLU" in compare(model, X, write=write).replaced.values()


def test_logits_are_overwritten_after_a_separate_loss():
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
def test_hooks_that_write_in_place(register, late):
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
    *("h[-1].add_(1)", "h[-1][0] = 0", "h[-1][:, 1] *= 2", "with torch.no_grad(): torch.mul(h[-1], 2, out=h[-1])"),
    *("h[-1].view(-1).mul_(1.5)", "h[len(h) // 2].mul_(0.5)", "F.leaky_relu(h[-1], 0.3, True)"),
    *("if h[-1].sum() < 1e9: h[-1].add_(1)", "h.append(h[-1] * 1)", "h.append(h[-1] + h[0])", "h.append(h[-1])"),
)


class Random(nn.Module):
    """Random layers and random in-place operations on their results."""

    def __init__(self, generator):
        super().__init__()
        self.steps, self.out, self.loss = nn.ModuleList(), nn.Linear(4, 4), nn.CrossEntropyLoss()
        for _ in range(generator.randint(1, 6)):
            self.steps.append(module("x.append(self.layer(x[-1]))", layer=generator.choice(LAYERS)()))
            while generator.random() < 0.35:
                self.steps.append(module("h = x\n" + generator.choice(STEPS)))

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
        except RuntimeError:  # rejected by torch
            continue
        ran += 1
        fused += len(compare(model, X, inplace=seed % 2 == 1).fused)
    assert ran > 30
    assert fused > 8
