"""convert and revert: the same numbers, from the same objects, and a way back."""

import contextlib
import copy
import io
import itertools
import operator
import pickle
import threading
import unittest.mock
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchnotes
from torchnotes import Report, convert, revert
from torchnotes.conversion import _converted

PRECISIONS = {torch.float64: 1e-10, torch.float32: 2e-4}  # a sum in another order, through some layers and a variance


class Block(nn.Module):
    """Convolutions around which the input is led."""

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


def dense() -> nn.Module:
    layers = [
        (nn.Linear(6, 6), act) for act in (nn.ReLU(), nn.LeakyReLU(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(-0.5))
    ]
    return nn.Sequential(*itertools.chain.from_iterable(layers), nn.Linear(6, 4), nn.Softmax(-1))


NETWORKS = {"convolutional": (convolutional, (3, 8, 8)), "dense": (dense, (6,))}
FUSED = {
    "convolutional": {"1.0": "1.1", "2.first.1": "2.first.2", "3.parts.0.1": "3.parts.0.2", "7": "8"},
    "dense": {"0": "1", "2": "3", "4": "5", "6": "7", "8": "9"},
}
ALL = pytest.mark.parametrize("name", NETWORKS)


def twins(name: str, dtype: torch.dtype = torch.float64, **options: bool) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """A network, a converted copy and an input."""
    make, shape = NETWORKS[name]
    model = make().to(dtype)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    ours = copy.deepcopy(model)
    convert(ours, **options)
    return model, ours, torch.randn(5, *shape, dtype=dtype)


def results(model: nn.Module, x: torch.Tensor, second: bool = True) -> list[torch.Tensor]:
    """The output, the gradients of a loss, and those of the length of these."""
    x = x.detach().requires_grad_()
    y = model(x)
    inputs = [x, *model.parameters()]
    gradients = torch.autograd.grad(y.square().sum(), inputs, create_graph=second)
    length = sum(g.square().sum() for g in gradients)
    return [y.detach(), *gradients, *(torch.autograd.grad(length, inputs, allow_unused=True) if second else ())]


def assert_same(model: nn.Module, ours: nn.Module, x: torch.Tensor, tolerance: float = 1e-10, second=True) -> None:
    all_expected = results(model, x, second)
    scale = max(1.0, *(expected.abs().max().item() for expected in all_expected if expected is not None))
    for found, expected in zip(results(ours, x, second), all_expected, strict=True):
        if expected is not None:  # at most the second derivative of the last bias
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)
    assert ours.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(ours.state_dict(), model.state_dict(), rtol=tolerance, atol=tolerance)


def fused_in(model: nn.Module, x: torch.Tensor) -> int:
    """How many activations a call of the model has its layers compute."""
    passed_on = []

    def watched(forward):
        def watching(self, input):
            passed_on.append(self in _converted._running.results)
            return forward(self, input)

        return watching

    with contextlib.ExitStack() as patches:
        for activation in _converted.NAMES:
            patches.enter_context(unittest.mock.patch.object(activation, "forward", watched(activation.forward)))
        model(x)
    return sum(passed_on)


@ALL
@pytest.mark.parametrize("fuse", (True, False))
@pytest.mark.parametrize("precision", PRECISIONS.items(), ids=lambda item: str(item[0]).removeprefix("torch."))
def test_a_converted_network_computes_the_same(name, fuse, precision):
    dtype, tolerance = precision
    model, ours, x = twins(name, dtype, fuse=fuse)
    for training in (True, True, False):
        assert_same(model.train(training), ours.train(training), x, tolerance)


@ALL
def test_what_is_fused_and_that_it_is_undone(name):
    model = NETWORKS[name][0]()
    before, attributes = repr(model), [dict(vars(m)) for m in model.modules()]
    report = convert(model)
    assert report.fused == FUSED[name]
    assert fused_in(model, torch.randn(5, *NETWORKS[name][1])) == len(report.fused)
    assert repr(model) == before
    model = copy.deepcopy(model)
    revert(model)
    assert repr(model) == before
    for module, old in zip(model.modules(), attributes, strict=True):
        assert vars(module).keys() == old.keys()
        assert not type(module).__module__.startswith("torchnotes.")
    assert not convert(model, fuse=False).fused
    assert fused_in(model, torch.randn(5, *NETWORKS[name][1])) == 0


EVERY = [  # of torch's modules, or ours
    lambda nn: nn.ReLU(inplace=True),
    lambda nn: nn.LeakyReLU(0.1),
    lambda nn: nn.Sigmoid(),
    lambda nn: nn.Tanh(),
    lambda nn: nn.Softmax(1),
    lambda nn: nn.LogSoftmax(1),
    lambda nn: nn.Linear(3, 4),
    lambda nn: nn.Dropout(0.3, inplace=True),
    lambda nn: nn.MSELoss(),
    lambda nn: nn.CrossEntropyLoss(label_smoothing=0.1),
    lambda nn: nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)),
    lambda nn: nn.BatchNorm1d(3),
    lambda nn: nn.SyncBatchNorm(3),
    lambda nn: nn.BatchNorm2d(3, affine=False),
    lambda nn: nn.BatchNorm3d(3, track_running_stats=False),
    lambda nn: nn.LazyBatchNorm1d(),
    lambda nn: nn.LazyBatchNorm2d(),
    lambda nn: nn.LazyBatchNorm3d(),
]


@pytest.mark.parametrize("make", EVERY)
def test_every_module_becomes_ours(make):
    module = make(nn)
    cls, before = type(module), repr(module)
    objects = [*module.parameters(), *module.buffers()]
    assert convert(module).replaced == {"": cls.__name__}
    made = make(torchnotes.nn)
    assert isinstance(module, type(made))
    assert vars(module).keys() - {"_before_conversion"} == vars(made).keys()
    for name in vars(made).keys() - vars(make(nn)).keys():  # our options
        assert getattr(module, name) == getattr(made, name)
    assert list(map(id, objects)) == list(map(id, [*module.parameters(), *module.buffers()]))
    assert repr(module) == before
    revert(module)
    assert type(module) is cls
    assert repr(module) == before


def test_all_classes_of_ours_that_torch_has_are_replaced():
    known = {name for name, cls in vars(torchnotes.nn).items() if isinstance(cls, type) and hasattr(torch.nn, name)}
    assert known - {"LinearCrossEntropyLoss"} == {type(make(nn)).__name__ for make in EVERY}


def test_losses():
    x, classes, y = torch.randn(6, 4, requires_grad=True), torch.randint(4, (6,)), torch.rand(6, 4)
    for loss, target in ((nn.CrossEntropyLoss(torch.rand(4)), classes), (nn.BCEWithLogitsLoss(), y), (nn.MSELoss(), y)):
        ours = copy.deepcopy(loss)
        convert(ours)
        found, expected = (torch.autograd.grad(f(x, target), x)[0] for f in (ours, loss))
        torch.testing.assert_close(found, expected)


class Using(nn.Module):
    """Layers, and what forward does with them."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.does = forward

    def forward(self, x, skip=None, more=False):
        return self.does(self, x, skip)


def hooked(module: nn.Module, register: str) -> nn.Module:
    getattr(module, register)(lambda *args: None)
    return module


REGISTER = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook")


def layer() -> nn.Module:
    return nn.Linear(3, 3)


def with_hook(register: str, which: int) -> nn.Module:
    model = nn.Sequential(layer(), nn.ReLU())
    hooked(model[which], register)
    return model


def twice(self, x, _):
    return self.act(self.lin(self.act(x)))


def elsewhere(self, x, _):
    h = self.lin(x)
    return self.act(h) + h


def elsewhere_in_training(self, x, _):
    h = self.lin(x)
    return (self.act(h), h) if self.training else self.act(h)


def elsewhere_in_evaluation(self, x, _):
    h = self.lin(x)
    return self.act(h) if self.training else (self.act(h), h)


def elsewhere_by_default(self, x, skip):
    h = self.lin(x)
    return self.act(h) + h if skip is None else self.act(h)


def layer_twice(self, x, _):
    return self.act(self.lin(self.lin(x)))


def tapped(self, x, _):
    taps = []
    for module in self.features:
        x = module(x)
        taps.append(x)
    return taps


def opaque(self, x, _):
    return self.block(x) if x.sum() > 0 else self.same(x)


def opaque_pair(self, x, _):
    return self.act(self.lin(x)) if x.sum() > 0 else x


def at_the_end(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Sequential(module), nn.ReLU())


def shared_block() -> nn.Module:
    block = nn.Sequential(layer(), nn.ReLU())
    return Using(opaque, block=block, same=block)


def called_by_two() -> nn.Module:
    lin = layer()
    return Using(opaque, block=nn.Sequential(lin, nn.ReLU()), same=nn.Sequential(lin, nn.Tanh()))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        *((lambda r=r, i=i: with_hook(r, i), "hooks") for r in REGISTER for i in (0, 1)),
        (lambda: Using(twice, lin=layer(), act=nn.Tanh()), "called more than once"),
        (lambda: Using(layer_twice, lin=layer(), act=nn.Tanh()), "called more than once"),
        (lambda: Using(elsewhere, lin=layer(), act=nn.Tanh()), "something else takes its result"),
        (lambda: Using(elsewhere_in_training, lin=layer(), act=nn.ReLU()), "something else takes its result"),
        (lambda: Using(elsewhere_in_evaluation, lin=layer(), act=nn.ReLU()), "something else takes its result"),
        (lambda: Using(elsewhere_by_default, lin=layer(), act=nn.ReLU()), "something else takes its result"),
        (lambda: Using(tapped, features=nn.Sequential(layer(), nn.ReLU())), "something else takes its result"),
        (shared_block, "several places"),
        (called_by_two, "called more than once"),
        (lambda: Using(opaque_pair, lin=layer(), act=nn.ReLU()), "does not trace"),
        (lambda: at_the_end(hooked(nn.Sequential(layer()), "register_forward_hook")), None),
        (lambda: nn.Sequential(nn.ModuleList([layer()])[0], nn.Dropout(0.0), nn.ReLU()), None),
    ],
)  # fmt: skip
def test_what_is_not_fused_and_why(model, why):
    model = model()
    plain = copy.deepcopy(model)
    report = convert(model)
    assert not report.fused
    assert [text for text in report.unfused.values() if why and why in text] or (why is None and not report.unfused)
    x = torch.randn(4, 3)
    for training in (True, False):
        torch.testing.assert_close(model.train(training)(x), plain.train(training)(x))


def test_a_model_in_a_module_without_hooks_is_fused_across_modules():
    model = at_the_end(nn.Sequential(layer()))
    assert convert(model).fused == {"0.0.0": "1"}


def test_inside_of_a_module_with_hooks_there_may_be_something_to_fuse():
    model = nn.Sequential(hooked(nn.Sequential(layer(), nn.ReLU()), "register_forward_hook"), layer())
    assert convert(model).fused == {"0.0": "0.1"}


class Own(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) + 1


def with_forward() -> nn.Module:
    relu = nn.ReLU()
    relu.forward = lambda x: x - 1
    return relu


def with_attribute() -> nn.Module:
    module = nn.Linear(3, 3)
    module.activation = "mine"
    return module


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Own(3), "a subclass of BatchNorm1d"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "a subclass of Linear"),
        (nn.GELU(), "no counterpart"),
        (nn.LazyLinear(3), "not initialised"),
        (with_forward(), "forward of its own"),
        (with_attribute(), "attribute 'activation'"),
        (torch.jit.script(nn.ReLU()), "torch.jit"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_left_alone_and_why(module, why):
    model = nn.Sequential(nn.Linear(3, 3), module)
    before = dict(vars(module))
    report = convert(model)
    assert "0" not in report.kept
    assert why in report.kept["1"]
    assert vars(module).keys() == before.keys()
    assert not report.fused


def test_hooks_and_old_parametrizations_go_on():
    def instrumented() -> tuple[nn.Module, list]:
        torch.manual_seed(0)
        seen: list = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weight_norm is deprecated, and still what models have
            model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
        model[1].register_forward_hook(lambda m, x, y: seen.append(y.detach()))
        model[1].register_forward_pre_hook(lambda m, x: seen.append(x[0].detach()))
        model[3].register_full_backward_hook(lambda m, g, of: seen.append(of[0]))
        model[3]._register_state_dict_hook(lambda m, s, prefix, _: s.update({prefix + "more": torch.ones(1)}))
        return model, seen

    (model, expected), (ours, seen) = instrumented(), instrumented()
    report = convert(ours)
    assert len(report.replaced) == 4
    assert report.unfused == {"1": "hooks see what is between it and its activation"}
    x = torch.randn(4, 3)
    for each in (model, ours):
        each(x).square().sum().backward()
    assert len(seen) == 3
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[0].weight_g.grad, model[0].weight_g.grad, rtol=1e-4, atol=1e-5)
    assert "3.more" in ours.state_dict()


def test_a_module_in_two_places_stays_one():
    norm = nn.BatchNorm1d(3)
    model = nn.Sequential(nn.Linear(3, 3), norm, nn.ReLU(), nn.Linear(3, 3), norm)
    plain = copy.deepcopy(model)
    report = convert(model)
    assert model[1] is model[4] is norm
    assert list(report.replaced) == ["0", "1", "2", "3"]
    assert not report.fused
    x = torch.randn(4, 3)
    assert_same(plain, model, x, 2e-4)
    revert(model)
    assert type(norm) is nn.BatchNorm1d


def test_tied_weights_and_an_optimizer_made_before():
    def tied() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
        model[3].weight = model[0].weight
        return model

    plain, model = tied(), tied()
    optimizers = [torch.optim.Adam(each.parameters(), lr=0.05) for each in (plain, model)]
    convert(model)
    assert model[3].weight is model[0].weight
    for _ in range(5):
        x = torch.randn(8, 4)
        for each, optimizer in zip((plain, model), optimizers, strict=True):
            optimizer.zero_grad()
            each(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)


@ALL
def test_copies_pickles_and_state_dicts(name):
    model, ours, x = twins(name)
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    copied = copy.deepcopy(ours)
    for other in (loaded, copied):
        torch.testing.assert_close(other(x), ours.eval()(x) if not other.training else copy.deepcopy(ours).train()(x))
        revert(other)
        assert repr(other) == repr(model)
    fresh = NETWORKS[name][0]().double().eval()
    fresh.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.eval()(x), fresh(x))
    ours.load_state_dict(model.state_dict())
    torch.testing.assert_close(ours(x), model.eval()(x))


def test_converting_again():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh())
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


def test_what_was_ours_before_is_fused_and_stays_ours():
    model = nn.Sequential(
        torchnotes.nn.Linear(3, 3, init="he"), nn.ReLU(), torchnotes.nn.Linear(3, 3, activation="tanh")
    )
    model.append(nn.Sigmoid())
    before = repr(model)
    assert convert(model).fused == {"0": "1"}
    assert model[0].init == "he"
    revert(model)
    assert repr(model) == before
    assert type(model[1]) is nn.ReLU
    assert model[2].activation == "tanh"


def test_lazy_normalisations():
    x = torch.randn(6, 3)
    for late in (True, False):
        model, plain = (nn.Sequential(nn.Linear(3, 3), nn.LazyBatchNorm1d(), nn.ReLU()) for _ in range(2))
        plain[0].load_state_dict(model[0].state_dict())
        assert convert(model).unfused == {"1": "not initialised yet"}
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


def images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), *layers)


class Added(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        h = self.norm(self.conv(x))
        h += x
        return h


class Kept(Added):
    def forward(self, x):
        h = self.conv(x)
        return (self.norm(h) * 2 - h).abs()


def normalised() -> tuple[nn.Module, ...]:
    return nn.BatchNorm1d(6), nn.Linear(6, 2)


def hooked_before() -> nn.Module:
    model = images(nn.GELU(), nn.Conv2d(4, 2, 1))
    hooked(model[0], "register_forward_hook")
    return model


IN_PLACE = {
    "leaky": (lambda: images(nn.LeakyReLU(0.1), nn.Conv2d(4, 2, 1)), ["1"]),
    "leaky in place": (lambda: images(nn.LeakyReLU(0.1, inplace=True), nn.Conv2d(4, 2, 1)), ["1"]),
    "none": (lambda: images(nn.Conv2d(4, 2, 1)), ["1"]),
    "gelu": (lambda: images(nn.GELU(), nn.Conv2d(4, 2, 1)), ["1"]),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 6), *normalised()), ["2"]),
    "relu": (lambda: images(nn.ReLU(), nn.Conv2d(4, 2, 1)), []),
    "falling": (lambda: images(nn.LeakyReLU(-0.1), nn.Conv2d(4, 2, 1)), []),
    "overwritten": (lambda: images(nn.ReLU6(inplace=True), nn.Conv2d(4, 2, 1)), []),
    "overwritten through views": (lambda: images(nn.Dropout(0.0), nn.Flatten(), nn.Hardtanh(inplace=True)), []),
    "the last": (lambda: images(nn.LeakyReLU(0.1)), []),
    "hooked": (lambda: images(hooked(nn.Identity(), "register_forward_hook"), nn.Conv2d(4, 2, 1)), []),
    "hooked before": (hooked_before, []),
    "after an activation": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 6), nn.Tanh(), *normalised()), []),
    "after a layer with an activation": (
        lambda: nn.Sequential(nn.Flatten(), torchnotes.nn.Linear(75, 6, activation="tanh"), *normalised()),
        [],
    ),
    "no layer before": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)), []),
    "added to": (lambda: nn.Sequential(Added(), nn.Conv2d(3, 2, 1)), []),
    "kept": (lambda: nn.Sequential(Kept(), nn.Conv2d(3, 2, 1)), []),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_where_it_is_safe(name):
    make, expected = IN_PLACE[name]
    model = make().double()
    ours, x = copy.deepcopy(model), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    assert convert(ours, inplace=True).inplace == expected
    for training in (True, False):
        assert_same(model.train(training), ours.train(training), x, second=False)
    revert(ours)
    assert repr(ours) == repr(model)
    assert not convert(ours).inplace


def test_in_place_has_no_second_derivative_and_says_so():
    model = images(nn.Conv2d(4, 2, 1))
    convert(model, inplace=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        results(model, torch.randn(2, 3, 5, 5))


@pytest.mark.parametrize("augment", (operator.iadd, operator.imul))
@pytest.mark.parametrize("before", (nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Softplus()), ids=lambda m: type(m).__name__)
def test_a_leaky_relu_whose_result_is_overwritten(augment, before):
    """Torch's keeps its input, ours its output. A batch normalisation keeps its input."""
    after = Using(
        lambda self, x, skip: augment(self.act(self.lin(x)), 3), lin=copy.deepcopy(before), act=nn.LeakyReLU()
    )
    inside = nn.Sequential(copy.deepcopy(before), nn.LeakyReLU(), nn.Dropout(0.0), nn.Hardtanh(inplace=True))
    for model in (after, inside):
        plain, fused = copy.deepcopy(model), type(before) is nn.BatchNorm1d
        report = convert(model)
        assert bool(report.fused) == fused
        assert bool([why for why in report.kept.values() if "overwrite" in why]) == (not fused)
        assert_same(plain, model, torch.randn(4, 3), 2e-4, second=False)


class Encoder(nn.Module):
    """Whose layers are called by two methods."""

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


def of_children(self, x, _):
    for child in (self.conv, self.norm, self.act, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *self.parts):
        x = child(x)
    return x


PIXELS, FEATURES = torch.randn(4, 4, 3, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
CALLS = {  # of a child, of some, by another method
    "norm": lambda model, x: model.norm(PIXELS),
    "activation": lambda model, x: model.act(PIXELS.clone()),
    "index": lambda model, x: model.parts[0](FEATURES),
    "slice": lambda model, x: model.parts[:1](FEATURES),
    "tail": lambda model, x: model.parts[1:](FEATURES.clone()),
    "one after another": lambda model, x: of_children(model, x, None),
    "in another Sequential": lambda model, x: nn.Sequential(model.conv, model.norm, nn.GELU())(x),
    "method": lambda model, x: model.encode(x),
    "forward": lambda model, x: model.forward(x),
}
EACH_ACTIVATION = pytest.mark.parametrize(
    "activation", (nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.1), nn.Sigmoid(), nn.Tanh()), ids=repr
)


def encoders(activation: nn.Module, inplace: bool = False) -> tuple[Encoder, Encoder, torch.Tensor]:
    model = Encoder(activation).double()
    ours, x = copy.deepcopy(model), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    assert convert(ours, inplace=inplace).fused == {"norm": "act", "parts.0": "parts.1", "parts.2": "parts.3"}
    assert fused_in(ours.eval(), x) == 3
    return model, ours.train(), x


@EACH_ACTIVATION
@pytest.mark.parametrize("inplace", (False, True))
def test_children_of_a_fused_model_compute_what_they_did(activation, inplace):
    model, ours, x = encoders(activation, inplace)
    for training in (True, False):
        model.train(training)
        ours.train(training)
        for call in CALLS.values():
            outputs = [call(each, x) for each in (ours, model)]
            torch.testing.assert_close(*outputs)
            gradients = [
                torch.autograd.grad(
                    y.square().sum(), list(each.parameters()), allow_unused=True, materialize_grads=True
                )
                for y, each in zip(outputs, (ours, model), strict=True)
                if y.requires_grad
            ]
            torch.testing.assert_close(*(gradients or ((), ())))


def insert(model: nn.Module) -> None:
    model.parts.insert(1, nn.Softplus())


def remove(model: nn.Module) -> None:
    del model.parts[1]


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


def choose(model: nn.Module) -> None:
    model.raw = True


def write_in_a_hook(model: nn.Module) -> None:
    model.parts[1].register_forward_hook(lambda module, args, y: y.add_(1))


@EACH_ACTIVATION
@pytest.mark.parametrize(
    "change",
    (insert, remove, replace, overwrite, parametrize, change_a_forward, change_the_forward, choose, write_in_a_hook),
)
def test_a_fused_model_that_is_changed(activation, change):
    model, ours, x = encoders(activation)
    for each in (model, ours):
        torch.manual_seed(1)
        change(each)
    if change in (overwrite, write_in_a_hook) and not isinstance(activation, nn.LeakyReLU):
        return  # with torch's it is an error, too
    assert_same(model, ours, x, second=False)


@EACH_ACTIVATION
def test_hooks_on_children_of_a_fused_model_see_what_they_saw(activation):
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
    """That nobody may derive from under its name."""


class Parent(Encoder):
    def __init_subclass__(cls, *, name):
        raise AssertionError(name)


def test_classes_that_heed_what_is_derived_from_them():
    x = torch.randn(4, 3, 3, 3)
    for cls, fused in ((Alone, {"parts.0": "parts.1", "parts.2": "parts.3"}), (Parent, {"norm": "act"})):
        model = cls(nn.ReLU()).eval()
        expected = model(x)
        assert fused.items() <= convert(model).fused.items()
        torch.testing.assert_close(model(x), expected)


def test_copies_of_a_fused_model():
    model, ours, x = encoders(nn.Sigmoid())
    for other in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert isinstance(other, Encoder)
        assert type(other).__name__ == "Encoder"
        assert fused_in(other.eval(), x) == 3
        torch.testing.assert_close(other.encode(x), model.eval().encode(x))
    revert(other)
    assert type(other) is Encoder


def test_a_child_is_called_while_another_thread_runs_the_model():
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
    """Which the compiler does not take in one piece."""

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
    with torch.no_grad():  # the compiler warns where a graph is broken
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
    """A forward with side effects."""

    def __init__(self):
        super().__init__()
        self.lin, self.act, self.seen, self.calls = nn.Linear(3, 3), nn.ReLU(), [], 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        warnings.warn("called", stacklevel=1)
        self.calls += 1
        self.seen.append(x)
        self.last = x
        self.count.add_(1)
        return self.act(self.lin(x)) + torch.rand(3)


def test_looking_for_what_to_fuse_leaves_the_model_as_it_was():
    model = Chatty()
    model.lin.eval()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert convert(model).fused == {"lin": "act"}
    assert torch.equal(torch.rand(2), expected)
    assert (model.calls, model.seen, model.count.item()) == (0, [], 0)
    assert not hasattr(model, "last")
    assert model.training
    assert not model.lin.training


def test_a_model_that_cannot_be_copied_is_converted_without_being_fused():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model.lines = (line for line in "ab")
    report = convert(model)
    assert len(report.replaced) == 2
    assert not report.fused
    assert "cannot be copied" in report.unfused[""]


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled(name):
    model, ours, x = twins(name, torch.float32)
    if name == "convolutional":
        model[3] = ours[3] = nn.Identity()  # the compiler does not take it whole either
        model[6].weight = ours[6].weight = nn.Parameter(torch.randn(8, 36))
        model[7].momentum = ours[7].momentum = 0.1  # nor an average over all batches
    torch.compiler.reset()
    compiled = torch.compile(ours, fullgraph=True)
    expected = results(model, x, second=False)
    for found, exact in zip(results(compiled, x, second=False), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=0, atol=2e-4 * max(1.0, exact.abs().max().item()))


def test_what_was_compiled_before_notices():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid())
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
    model, ours, x = twins("dense")
    for each in (model, ours):
        each.parameter_dict = dict(each.named_parameters())

    def per_sample(module):
        def loss(parameters, x):
            return torch.func.functional_call(module, parameters, x[None]).square().sum()

        return torch.vmap(torch.func.grad(loss), (None, 0))(dict(module.named_parameters()), x)

    torch.testing.assert_close(per_sample(ours), per_sample(model))


def test_the_report_can_be_read():
    model = nn.Sequential(
        nn.Linear(3, 3), nn.ReLU(), hooked(nn.Linear(3, 3), "register_forward_hook"), nn.ReLU(), nn.GELU()
    )
    assert str(convert(model)).splitlines() == [
        "replaced: 4",
        "    2 Linear",
        "    2 ReLU",
        "fused: 1",
        "    0 with 1",
        "kept: 1",
        "    GELU: no counterpart here (1): 4",
        "not fused: 1",
        "    hooks see what is between it and its activation (1): 2",
    ]
    assert "in place: 1" in str(convert(images(nn.Conv2d(4, 4, 1)), inplace=True))
    assert "(model)" in str(convert(nn.GELU()))


def test_bad_input():
    for function in (convert, revert):
        with pytest.raises(TypeError, match=r"takes a torch.nn.Module. Got: list"):
            function([nn.ReLU()])
    model = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid())
    convert(model)
    nn.utils.parametrizations.weight_norm(model[0])
    x = torch.randn(2, 3)
    expected = model(x)
    with pytest.raises(ValueError, match="0 has become ParametrizedLinear"):
        revert(model)
    torch.testing.assert_close(model(x), expected)
