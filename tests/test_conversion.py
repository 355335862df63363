"""convert and revert preserve results and objects."""

import copy
import io
import itertools
import pickle
import random
import threading
import warnings

import numpy
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchnotes
from conversion_checks import assert_same, compare, fused_in, module, results
from torchnotes import Report, convert, revert
from torchnotes.ops import activations


class Block(nn.Module):
    """A residual block."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2))
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.norm(self.conv(self.first(x)))
        h += x
        return self.act(h)


class Untraceable(nn.Module):
    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x if x.sum() > 0 else 2 * x


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
        Block(),
        Untraceable(nn.Sequential(nn.ConvTranspose2d(4, 6, 2), nn.BatchNorm2d(6), nn.Sigmoid()), nn.Tanh()),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(54, 8, bias=False),
        nn.BatchNorm1d(8, affine=False, momentum=None),
        nn.Tanh(),
        nn.Dropout(0.0),
        nn.Linear(8, 5),
        nn.LogSoftmax(-1),
    )


ACTIVATIONS = [getattr(nn, info.module) for info in activations.ACTIVATIONS.values() if info.of_output]


def dense() -> nn.Module:
    layers = [(nn.Linear(6, 6), act) for act in (nn.LeakyReLU(-0.5), *(kind() for kind in ACTIVATIONS))]
    return nn.Sequential(*itertools.chain.from_iterable(layers), nn.Linear(6, 4), nn.Softmax(-1))


NETWORKS = {  # an input, and the activations that are fused into layers
    convolutional: ((5, 3, 8, 8), {"1.0": "1.1", "2.first.1": "2.first.2", "3.parts.0.1": "3.parts.0.2", "7": "8"}),
    dense: ((5, 6), {str(2 * i): str(2 * i + 1) for i in range(1 + len(ACTIVATIONS))}),
}


def randomized(model: nn.Module) -> nn.Module:
    """Gives normalizations weights other than ones and zeros."""
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return model


@pytest.mark.parametrize("fuse", (True, False))
@pytest.mark.parametrize("make", NETWORKS)
def test_converted_networks_compute_the_same(make, fuse):
    shape, fused = NETWORKS[make]
    model, x = randomized(make()).double(), torch.randn(shape, dtype=torch.float64)
    assert compare(model, x, second=True, fuse=fuse).fused == (fused if fuse else {})
    convert(model, fuse=fuse)
    assert fused_in(model, x) == (len(fused) if fuse else 0)
    assert make is dense or compare(make(), x, inplace=True).inplace == ["2.first.1"]


def hooked(module: nn.Module, register: str = "register_forward_hook") -> nn.Module:
    getattr(module, register)(lambda *args: None)
    return module


def layer() -> nn.Module:
    return nn.Linear(3, 3)


def of_two(forward: str) -> nn.Module:
    return module(forward, lin=layer(), act=nn.Tanh())


def twice(same: nn.Module) -> nn.Module:
    return module("return self.block(x) if x.sum() > 0 else self.same(x)", block=same, same=same)


def called_by_two() -> nn.Module:
    model, lin = twice(nn.Identity()), layer()
    model.block, model.same = nn.Sequential(lin, nn.ReLU()), nn.Sequential(lin, nn.Tanh())
    return model


def shared_norm() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    return nn.Sequential(layer(), norm, nn.ReLU(), layer(), norm)


REGISTER = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook")
REGISTER += ("register_full_backward_pre_hook",)
TAKEN = "its result is also used elsewhere"
NOT_FUSED = [
    *((lambda r=r: nn.Sequential(hooked(layer(), r), nn.ReLU()), "hooks") for r in REGISTER),
    *((lambda r=r: nn.Sequential(layer(), hooked(nn.ReLU(), r)), "hooks") for r in REGISTER),
    (lambda: of_two("return self.act(self.lin(self.act(x)))"), "called more than once"),
    (lambda: of_two("return self.act(self.lin(self.lin(x)))"), "called more than once"),
    (lambda: of_two("h = self.lin(x)\nreturn self.act(h) + h"), TAKEN),
    (lambda: of_two("h = self.lin(x)\nreturn (self.act(h), h) if self.training else self.act(h)"), TAKEN),
    (lambda: of_two("h = self.lin(x)\nreturn self.act(h) if self.training else (self.act(h), h)"), TAKEN),
    (lambda: of_two("h = self.lin(x)\nreturn self.act(h) + h if a is None else self.act(h)"), TAKEN),
    (lambda: of_two("h = self.lin(x)\nself.kept = [h]\nreturn self.act(h)"), TAKEN),
    (lambda: of_two("taps = []\nfor one in (self.lin, self.act):\n    taps.append(x := one(x))\nreturn taps"), TAKEN),
    (lambda: of_two("return self.act(self.lin(x)) if x.sum() > 0 else x"), "does not trace"),
    (lambda: twice(nn.Sequential(layer(), nn.ReLU())), "several places"),
    (called_by_two, "called more than once"),
    (lambda: nn.Sequential(nn.Sequential(hooked(nn.Sequential(layer()))), nn.ReLU()), None),
    (lambda: nn.Sequential(nn.ModuleList([layer()])[0], nn.Dropout(0.0), nn.ReLU()), None),
    (shared_norm, "called more than once"),
]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(("make", "why"), NOT_FUSED)
def test_not_fused(make, why):
    report = compare(make(), torch.randn(4, 3, dtype=torch.float64))
    assert not report.fused
    assert [text for text in report.unfused.values() if why and why in text] or (why is None and not report.unfused)


def frozen() -> nn.Module:
    model = nn.Sequential(layer(), randomized(nn.BatchNorm1d(3)), nn.ReLU(), layer())
    model[1].requires_grad_(False)
    model[1].train = lambda mode=True: model[1]  # it stays in eval mode
    model[1].training = False
    return model


def without_weight() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    norm.register_parameter("weight", None)
    return nn.Sequential(layer(), norm, nn.Sigmoid())


@pytest.mark.parametrize(
    ("make", "fused"),
    [
        (lambda: nn.Sequential(nn.Sequential(nn.Sequential(layer())), nn.ReLU()), {"0.0.0": "1"}),
        (lambda: nn.Sequential(hooked(nn.Sequential(layer(), nn.ReLU())), layer()), {"0.0": "0.1"}),
        (lambda: nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.LeakyReLU(0.3)), {"0": "1"}),
        (lambda: nn.Sequential(nn.BatchNorm1d(3, eps=0.1, momentum=None), nn.LeakyReLU(-0.3)), {"0": "1"}),
        (lambda: nn.Sequential(nn.Linear(3, 3, bias=False), nn.LeakyReLU(0.0), layer()), {"0": "1"}),
        (lambda: nn.Sequential(layer(), nn.LeakyReLU(0.3, inplace=True)), {"0": "1"}),
        (lambda: nn.Sequential(nn.SyncBatchNorm(3), nn.Tanh()), {"0": "1"}),
        (lambda: nn.Sequential(layer().requires_grad_(False), nn.ReLU()), {"0": "1"}),
        (lambda: nn.Sequential(nn.Identity(), nn.Sequential(nn.ReLU(), layer()), nn.ReLU()), {"1.1": "2"}),
        (frozen, {"1": "2"}),
        (without_weight, {"1": "2"}),
    ],
)  # fmt: skip
def test_fused(make, fused):
    model, x = make().double(), torch.randn(4, 3, dtype=torch.float64)
    assert compare(model, x, second=make is not without_weight).fused == fused  # torch has no second derivative for it
    convert(model)
    assert fused_in(model, x) == 1


class Own(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) + 1


def changed(module: nn.Module, **attributes) -> nn.Module:
    vars(module).update(attributes)
    return module


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Own(3), "a subclass of BatchNorm1d"),
        (nn.utils.parametrizations.weight_norm(layer()), "a subclass of Linear"),
        (nn.GELU(), "no counterpart"),
        (nn.LazyLinear(3), "not initialized"),
        (changed(nn.ReLU(), forward=lambda x: x - 1), "its own forward"),
        (changed(layer(), activation="mine"), "attribute 'activation'"),
        (torch.jit.script(nn.ReLU()), "torch.jit"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_not_replaced(module, why):
    model, before = nn.Sequential(layer(), module), dict(vars(module))
    report = convert(model)
    assert "0" not in report.kept
    assert why in report.kept["1"]
    assert vars(module).keys() == before.keys()
    assert not report.fused


def test_hooks_and_old_parametrizations_keep_working():
    def instrumented() -> tuple[nn.Module, list]:
        torch.manual_seed(0)
        seen: list = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weight_norm is deprecated, but models still use it
            model = nn.Sequential(nn.utils.weight_norm(layer()), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
        model[1].register_forward_hook(lambda m, x, y: seen.append(y.detach()))
        model[1].register_forward_pre_hook(lambda m, x: seen.append(x[0].detach()))
        model[3].register_full_backward_hook(lambda m, g, of: seen.append(of[0]))
        model[3]._register_state_dict_hook(lambda m, s, prefix, _: s.update({prefix + "more": torch.ones(1)}))
        return model.double(), seen

    (model, expected), (ours, seen) = instrumented(), instrumented()
    report = convert(ours)
    assert len(report.replaced) == 4
    assert report.unfused == {"1": "hooks see the value between it and its activation"}
    assert_same(ours, model, torch.randn(4, 3, dtype=torch.float64))
    assert len(seen) == 3
    torch.testing.assert_close(seen, expected)
    assert "3.more" in ours.state_dict()


def test_tied_weights_and_existing_optimizers():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4)).double()
    model[3].weight = model[0].weight
    ours = copy.deepcopy(model)
    optimizers = [torch.optim.Adam(each.parameters(), lr=0.05) for each in (model, ours)]
    convert(ours)
    assert ours[3].weight is ours[0].weight
    for _ in range(3):
        x = torch.randn(8, 4, dtype=torch.float64)
        for each, optimizer in zip((model, ours), optimizers, strict=True):
            optimizer.zero_grad()
            each(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), model.state_dict())


def test_copies_pickles_and_state_dicts():
    model, x = randomized(convolutional()).double(), torch.randn(5, 3, 8, 8, dtype=torch.float64)
    ours = copy.deepcopy(model)
    convert(ours)
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (loaded, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert fused_in(copy.deepcopy(other), x) == 4
        assert_same(other, copy.deepcopy(model), x)
        revert(other)
        assert repr(other) == repr(model)
    fresh = convolutional().double()
    fresh.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.eval()(x), fresh.eval()(x))
    ours.load_state_dict(convolutional().state_dict())


def test_converting_again():
    model = nn.Sequential(layer(), nn.ReLU(), layer(), nn.Tanh())
    before, x = repr(model), torch.randn(2, 3)
    expected = model(x)
    assert not convert(model, fuse=False).fused
    torch.testing.assert_close(model(x), expected)
    report = convert(model)
    assert report.fused == {"0": "1", "2": "3"}
    assert not report.replaced
    assert not report.kept
    assert convert(model) == Report()
    torch.testing.assert_close(model(x), expected)
    revert(model)
    revert(model)
    assert repr(model) == before


def test_converting_parts_of_a_converted_model():
    model, ours, x = encoders(nn.Sigmoid())
    part, whole = ours.parts[:3], nn.Sequential(ours.conv, ours.norm, ours.act)
    assert convert(part).fused == {"0": "1"}
    assert convert(whole).fused == {"1": "2"}
    for each, expected in ((part, model.parts[:3]), (whole, nn.Sequential(model.conv, model.norm, model.act))):
        y = x if each is whole else FEATURES
        assert fused_in(each.eval(), y) == 1
        torch.testing.assert_close(each(y), expected.eval()(y))
        revert(each)
        assert type(each) is nn.Sequential
    torch.testing.assert_close(ours.eval()(x), model.eval()(x))


def test_our_modules_are_fused_and_not_reverted():
    ours = torchnotes.nn
    model = nn.Sequential(ours.Linear(3, 3, init="he"), nn.ReLU(), ours.Linear(3, 3, activation="tanh"), nn.Sigmoid())
    assert compare(model, torch.randn(4, 3, dtype=torch.float64)).fused == {"0": "1"}
    assert model[0].init == "he"
    assert model[2].activation == "tanh"


@pytest.mark.parametrize("late", (True, False))
def test_lazy_normalizations(late):
    x = torch.randn(6, 3)
    model, plain = (nn.Sequential(layer(), nn.LazyBatchNorm1d(), nn.ReLU()) for _ in range(2))
    plain[0].load_state_dict(model[0].state_dict())
    assert convert(model).unfused == {"1": "not initialized yet"}
    if late:
        assert type(model[1]) is torchnotes.nn.LazyBatchNorm1d
        torch.testing.assert_close(model(x), plain(x))
        assert type(model[1]) is torchnotes.nn.BatchNorm1d
        assert convert(model).fused == {"1": "2"}
        torch.testing.assert_close(model.eval()(x), plain.eval()(x))
    revert(model)
    assert type(model[1]) is (nn.BatchNorm1d if late else nn.LazyBatchNorm1d)
    torch.testing.assert_close(model(x), plain(x))
    assert type(model[1]) is nn.BatchNorm1d


def images(*layers: nn.Module, norm: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm or nn.BatchNorm2d(4), *layers)


def normalized(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *between, nn.BatchNorm1d(6), nn.Linear(6, 2))


def of_norm(forward: str) -> nn.Module:
    return nn.Sequential(module(forward, conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)), nn.Conv2d(3, 2, 1))


def last() -> nn.Module:
    return nn.Conv2d(4, 2, 1)


IN_PLACE = {
    "leaky": (lambda: images(nn.LeakyReLU(0.1), last()), ["1"]),
    "leaky in place": (lambda: images(nn.LeakyReLU(0.1, inplace=True), last()), ["1"]),
    "none": (lambda: images(last()), ["1"]),
    "gelu": (lambda: images(nn.GELU(), last()), ["1"]),
    "linear": (lambda: normalized(nn.Linear(75, 6)), ["2"]),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4), last()), ["1"]),
    "statistics of the batch": (lambda: images(last(), norm=nn.BatchNorm2d(4, track_running_stats=False)), ["1"]),
    "average": (lambda: images(last(), norm=nn.BatchNorm2d(4, momentum=None, affine=False)), ["1"]),
    "relu": (lambda: images(nn.ReLU(), last()), []),
    "falling": (lambda: images(nn.LeakyReLU(-0.1), last()), []),
    "flat": (lambda: images(nn.LeakyReLU(0.0), last()), []),
    "overwritten": (lambda: images(nn.ReLU6(inplace=True), last()), []),
    "overwritten through views": (lambda: images(nn.Dropout(0.0), nn.Flatten(), nn.Hardtanh(inplace=True)), []),
    "the last": (lambda: images(nn.LeakyReLU(0.1)), []),
    "hooked": (lambda: images(hooked(nn.Identity()), last()), []),
    "hooked before": (lambda: nn.Sequential(hooked(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4), nn.GELU(), last()), []),
    "after an activation": (lambda: normalized(nn.Linear(75, 6), nn.Tanh()), []),
    "after a layer with one": (lambda: normalized(torchnotes.nn.Linear(75, 6, activation="tanh")), []),
    "no layer before": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)), []),
    "added to": (lambda: of_norm("h = self.norm(self.conv(x))\nh += x\nreturn h"), []),
    "kept": (lambda: of_norm("h = self.conv(x)\nreturn (self.norm(h) * 2 - h).abs()"), []),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_where_it_is_safe(name):
    make, expected = IN_PLACE[name]
    model, x = randomized(make()), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    assert compare(model, x, inplace=True).inplace == expected
    assert not convert(model).inplace


def test_in_place_raises_for_second_derivatives():
    model = images(last())
    convert(model, inplace=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        results(model, torch.randn(2, 3, 5, 5), second=True)


@pytest.mark.parametrize("before", (layer(), nn.BatchNorm1d(3), nn.Softplus()), ids=lambda m: type(m).__name__)
def test_leaky_relu_whose_output_is_overwritten(before):
    """Torch's LeakyReLU saves its input, ours its output. Batch normalization saves its input."""
    after = module("return self.act(self.lin(x)).mul_(3)", lin=copy.deepcopy(before), act=nn.LeakyReLU())
    inside = nn.Sequential(copy.deepcopy(before), nn.LeakyReLU(), nn.Dropout(0.0), nn.Hardtanh(inplace=True))
    for model in (after, inside):
        report, fused = compare(model, torch.randn(4, 3, dtype=torch.float64)), type(before) is nn.BatchNorm1d
        assert bool(report.fused) == fused
        assert bool([why for why in report.kept.values() if "overwrite" in why]) == (not fused)


def test_softplus_is_fused_only_if_that_is_safe():
    """Layers end with a softplus of beta 1 and threshold 20 only, and save its output. torch's saves its input."""
    x = torch.randn(4, 3, dtype=torch.float64)
    for act, fused in ((nn.Softplus(), 1), (nn.Softplus(2), 0), (nn.Softplus(1, 0.3), 0)):
        for before in (layer(), nn.BatchNorm1d(3)):
            model = module("return self.act(self.lin(x)) * 3", lin=copy.deepcopy(before), act=act)
            assert len(compare(model, x).fused) == fused
    assert not compare(module("return self.act(self.lin(x)).mul_(3)", lin=layer(), act=nn.Softplus()), x).fused
    for before in (layer(), nn.BatchNorm1d(3)):
        model = nn.Sequential(before, nn.Softplus(), layer()).double()
        ours = copy.deepcopy(model)
        assert convert(ours).fused
        model[1].beta = ours[1].beta = 2
        assert_same(ours, model, x)


class Encoder(nn.Module):
    """Calls its layers from two methods."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), activation
        self.parts = nn.Sequential(nn.Linear(4, 4), copy.deepcopy(activation), nn.Linear(4, 4), nn.Tanh())
        self.out, self.raw = nn.Linear(4, 2), False

    def forward(self, x):
        h = self.norm(self.conv(x))
        if not self.raw:
            h = self.act(h)
        return self.out(self.parts(h.mean((2, 3))))

    def encode(self, x):
        return self.norm(self.conv(x))


def of_children(model, x):
    for child in (model.conv, model.norm, model.act, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *model.parts):
        x = child(x)
    return x


PIXELS, FEATURES = torch.randn(4, 4, 3, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
CALLS = (  # a child, some children, another method
    lambda model, x: model.norm(PIXELS),
    lambda model, x: model.act(PIXELS.clone()),
    lambda model, x: model.parts[0](FEATURES),
    lambda model, x: model.parts[:1](FEATURES),
    lambda model, x: model.parts[1:](FEATURES.clone()),
    of_children,
    lambda model, x: nn.Sequential(model.conv, model.norm, nn.GELU())(x),
    lambda model, x: model.encode(x),
    lambda model, x: model.forward(x),
)
EACH_ACTIVATION = pytest.mark.parametrize(
    "activation", (nn.LeakyReLU(0.1), nn.ReLU(inplace=True), *(kind() for kind in ACTIVATIONS)), ids=repr
)


def encoders(activation: nn.Module, inplace: bool = False) -> tuple[Encoder, Encoder, torch.Tensor]:
    model = Encoder(activation).double()
    ours, x = copy.deepcopy(model), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    assert convert(ours, inplace=inplace).fused == {"norm": "act", "parts.0": "parts.1", "parts.2": "parts.3"}
    assert fused_in(ours.eval(), x) == 3
    return model, ours.train(), x


@EACH_ACTIVATION
@pytest.mark.parametrize("inplace", (False, True))
def test_children_of_a_fused_model_compute_the_same(activation, inplace):
    model, ours, x = encoders(activation, inplace)
    for training in (True, False):
        for call in CALLS:
            calling = (module("return self.call(self.model, x)", model=each, call=call) for each in (ours, model))
            assert_same(*(each.train(training) for each in calling), x)


def replace(model: nn.Module) -> None:
    model.act, model.parts[1], model.parts[2] = nn.GELU(), nn.Softplus(), nn.Identity()


def overwrite(model: nn.Module) -> None:
    model.parts[2] = nn.Hardtanh(inplace=True)


def parametrize(model: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(model.parts[0])
    nn.utils.parametrize.register_parametrization(model.norm, "weight", nn.Softplus())


def change_a_forward(model: nn.Module) -> None:
    forward = model.norm.forward
    model.norm.forward = lambda x: 2 * forward(x)


def change_the_forward(model: nn.Module) -> None:
    model.forward = lambda x: model.out(model.parts[2](model.parts[0](model.norm(model.conv(x)).mean((2, 3)))))


def write_in_a_hook(model: nn.Module) -> None:
    model.parts[1].register_forward_hook(lambda module, args, y: y.add_(1))


CHANGES = {
    "insert": lambda model: model.parts.insert(1, nn.Softplus()),
    "remove": lambda model: model.parts.__delitem__(1),
    "choose": lambda model: setattr(model, "raw", True),
} | {f.__name__: f for f in (replace, overwrite, parametrize, change_a_forward, change_the_forward, write_in_a_hook)}


@EACH_ACTIVATION
@pytest.mark.parametrize("change", CHANGES)
def test_modified_fused_models(activation, change):
    model, ours, x = encoders(activation)
    for each in (model, ours):
        torch.manual_seed(1)
        CHANGES[change](each)
    if change in ("overwrite", "write_in_a_hook") and not isinstance(activation, nn.LeakyReLU):
        return  # an error in torch, too
    assert_same(ours, model, x)


@EACH_ACTIVATION
def test_hooks_on_children_of_a_fused_model_see_the_same(activation):
    model, ours, x = encoders(activation)
    for register in (
        lambda model, hook: model.norm.register_forward_hook(hook),
        lambda model, hook: model.parts[1].register_forward_hook(hook),
        lambda model, hook: nn.modules.module.register_module_forward_hook(hook),
    ):
        seen: tuple[list, list] = [], []
        for each, values in zip((model, ours), seen, strict=True):
            handle = register(each, lambda module, args, y, values=values: values.append(y.detach().clone()))
            each(x)
            handle.remove()
        torch.testing.assert_close(seen[1], seen[0])
    assert fused_in(ours, x) == 3


class Registering(type):
    def __new__(cls, name, bases, members):
        if any(base.__name__ == name for base in bases):
            raise TypeError(f"there is a {name} already")
        return super().__new__(cls, name, bases, members)


class Alone(Encoder, metaclass=Registering):
    """Rejects a subclass of the same name."""


class Parent(Encoder):
    def __init_subclass__(cls, *, name):
        raise AssertionError(name)


def test_classes_that_restrict_subclassing():
    x = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    for cls, fused in ((Alone, {"parts.0": "parts.1", "parts.2": "parts.3"}), (Parent, {"norm": "act"})):
        assert fused.items() <= compare(cls(nn.ReLU()), x).fused.items()


def test_shallow_copy_of_a_fused_model():
    model, ours, x = encoders(nn.Sigmoid())
    other = copy.copy(ours)
    assert (type(other).__name__, isinstance(other, Encoder)) == ("Encoder", True)
    assert fused_in(other.eval(), x) == 3
    torch.testing.assert_close(other.encode(x), model.eval().encode(x))


def test_calling_a_child_while_another_thread_runs_the_model():
    model, ours, x = encoders(nn.Sigmoid())
    model.eval()
    ours.eval()
    expected, calls = model.encode(x), []
    thread = threading.Thread(target=lambda: calls.extend(ours.encode(x) for _ in range(50)))
    thread.start()
    for _ in range(50):
        ours(x)
    thread.join()
    torch.testing.assert_close(calls, [expected] * 50)


class Broken(Encoder):
    """Contains a graph break."""

    def forward(self, x):
        h = self.norm(self.conv(x))
        torch._dynamo.graph_break()
        return self.out(self.parts(self.act(h).mean((2, 3))))


@pytest.mark.parametrize("part", ("", "act", "norm", "parts", "parts.0", "parts.1"))
def test_compiled_in_part(part):
    model = Broken(nn.Sigmoid()).double().eval()
    ours, x = copy.deepcopy(model), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    convert(ours)
    torch.compiler.reset()
    ours.get_submodule(part).compile(backend="eager")
    with torch.no_grad():  # the compiler warns about graph breaks
        torch.testing.assert_close(ours(x), model(x))


class Checkpointed(Encoder):
    reentrant = False

    def forward(self, x):
        h = checkpoint(lambda x: self.act(self.norm(self.conv(x))), x, use_reentrant=self.reentrant)
        h = checkpoint(self.parts[0], h.mean((2, 3)), use_reentrant=self.reentrant)
        return self.out(self.parts[3](self.parts[2](self.parts[1](h))))


@pytest.mark.parametrize("reentrant", (False, True))
def test_checkpoints(reentrant, monkeypatch):
    monkeypatch.setattr(Checkpointed, "reentrant", reentrant)
    model = Checkpointed(nn.Sigmoid()).double().eval()
    ours = copy.deepcopy(model)
    assert len(convert(ours).fused) == 3
    gradients = []
    for each in (ours, model):
        x = torch.ones(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
        each(x).square().sum().backward()
        gradients.append([x.grad, *(p.grad for p in each.parameters())])
    torch.testing.assert_close(*gradients)


class Chatty(nn.Module):
    """Has a forward with side effects."""

    def __init__(self):
        super().__init__()
        self.lin, self.act, self.seen, self.calls = layer(), nn.ReLU(), [], 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        warnings.warn("called", stacklevel=1)
        self.calls += 1
        self.seen.append(x)
        self.last = x
        self.count.add_(1)
        return self.act(self.lin(x)) * (torch.rand(3) + random.random() + numpy.random.rand())


def test_tracing_leaves_the_model_unchanged():
    model = Chatty()
    model.lin.eval()
    states = torch.get_rng_state().numpy(), random.getstate(), numpy.random.get_state()
    assert convert(model).fused == {"lin": "act"}
    numpy.testing.assert_equal((torch.get_rng_state().numpy(), random.getstate(), numpy.random.get_state()), states)
    assert (model.calls, model.seen, model.count.item(), model.training, model.lin.training) == (0, [], 0, True, False)
    assert not hasattr(model, "last")


def test_a_model_that_cannot_be_copied_is_converted_without_fusing():
    model = nn.Sequential(layer(), nn.ReLU())
    model.lines = (line for line in "ab")
    report = convert(model)
    assert len(report.replaced) == 2
    assert not report.fused
    assert "cannot be copied" in report.unfused[""]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler reads it
def test_compiled():
    """The compiler traces the modules and ignores the shortcuts of convert."""
    model = randomized(nn.Sequential(images(nn.LeakyReLU(0.1)), Block(), nn.Flatten(), nn.Linear(100, 6), dense()))
    model, x = model.double(), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    ours = copy.deepcopy(model)
    report = convert(ours, inplace=True)
    assert len(report.fused) == 3 + len(ACTIVATIONS)
    assert report.inplace
    torch.compiler.reset()
    assert_same(torch.compile(ours, fullgraph=True, backend="aot_eager"), model, x)


def test_compiled_before_conversion():
    model = nn.Sequential(layer(), nn.Sigmoid())
    x = torch.randn(2, 3)
    expected = model(x)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    assert convert(compiled).fused
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(model(x), expected)
    revert(model)
    torch.testing.assert_close(compiled(x), expected)


def test_transforms():
    model, x = dense().double(), torch.randn(5, 6, dtype=torch.float64)
    ours = copy.deepcopy(model)
    convert(ours)

    def per_sample(module):
        def loss(parameters, x):
            return torch.func.functional_call(module, parameters, x[None]).square().sum()

        return torch.vmap(torch.func.grad(loss), (None, 0))(dict(module.named_parameters()), x)

    torch.testing.assert_close(per_sample(ours), per_sample(model))


def test_report_is_readable():
    model = nn.Sequential(layer(), nn.ReLU(), hooked(layer()), nn.ReLU(), nn.GELU())
    assert str(convert(model)).splitlines() == [
        "replaced: 4",
        "    2 Linear",
        "    2 ReLU",
        "fused: 1",
        "    0 with 1",
        "kept: 1",
        "    GELU: torchnotes has no counterpart (1): 4",
        "not fused: 1",
        "    hooks see the value between it and its activation (1): 2",
    ]
    assert "in place: 1" in str(convert(images(nn.Conv2d(4, 4, 1)), inplace=True))
    assert "(model)" in str(convert(nn.GELU()))


def test_bad_input():
    for function in (convert, revert):
        with pytest.raises(TypeError, match=r"takes a torch.nn.Module. Got: list"):
            function([nn.ReLU()])
    model = nn.Sequential(layer(), nn.Sigmoid())
    convert(model)
    nn.utils.parametrizations.weight_norm(model[0])
    x = torch.randn(2, 3)
    expected = model(x)
    with pytest.raises(ValueError, match="0 has since become ParametrizedLinear"):
        revert(model)
    torch.testing.assert_close(model(x), expected)
