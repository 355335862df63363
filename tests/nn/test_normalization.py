"""The modules are torch.nn's in everything but who computes, and the options that torch's lack."""

import copy
import inspect
import pickle

import pytest
import torch

from torchnotes import nn

SHAPES = {1: ((4, 3), (4, 3, 5)), 2: ((4, 3, 5, 6),), 3: ((2, 3, 2, 3, 4),)}
OPTIONS = (
    {},
    {"momentum": None},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"eps": 1e-3, "momentum": 0.5, "dtype": torch.float64},
)
CASES = [(dim, options) for dim in SHAPES for options in OPTIONS]


def pair(dim, options, lazy=""):
    return (getattr(module, f"{lazy}BatchNorm{dim}d") for module in (nn, torch.nn))


@pytest.mark.parametrize(("dim", "options"), CASES)
def test_constructor_repr_state_and_values(dim, options):
    ours, theirs = (module(3, **options) for module in pair(dim, options))
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, type(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if ours.weight is not None:
        torch.nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    for _ in range(3):
        for shape in SHAPES[dim]:
            x = 3 * torch.randn(shape, dtype=options.get("dtype")) + 1
            for module in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
                torch.testing.assert_close(module(x), copy.deepcopy(theirs)(x))
            torch.testing.assert_close(ours(x), theirs(x))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
        assert ours.state_dict()[name].dtype == value.dtype
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    ours.load_state_dict(theirs.state_dict())
    ours.reset_parameters()
    theirs.reset_parameters()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("momentum", (0.1, None))
def test_tracking_switched_on_or_off_after_construction(momentum):
    for before in (True, False):
        options = dict(momentum=momentum, track_running_stats=before)
        theirs, ours, sync = (
            module(3, **options) for module in (torch.nn.BatchNorm1d, nn.BatchNorm1d, nn.SyncBatchNorm)
        )
        sync_of_theirs = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(theirs))
        x = torch.randn(4, 3)
        for tracking, training in ((before, True), (not before, True), (not before, False), (before, True)):
            theirs.train(training).track_running_stats = tracking
            y = theirs(x)
            for module in (ours, sync, sync_of_theirs):
                module.train(training).track_running_stats = tracking
                torch.testing.assert_close(module(x), y)
                torch.testing.assert_close(module.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("training", (0, 1, None, "yes", torch.tensor(True)))
def test_whatever_is_true_is_training(training):
    x, results = torch.randn(4, 3), []
    for module in (torch.nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.SyncBatchNorm(3)):
        module.training = training
        results.append((module(x), module.state_dict()))
    torch.testing.assert_close(results[1:], results[:1] * 2)


@pytest.mark.parametrize("lazy", ("", "Lazy"))
@pytest.mark.parametrize("dim", SHAPES)
def test_signatures(dim, lazy):
    """What torch's lacks comes after its parameters, by keyword alone."""
    ours, theirs = (
        [(p.name, p.default, p.kind) for p in inspect.signature(module).parameters.values()]
        for module in pair(dim, {}, lazy)
    )
    more = ours[len(theirs) :]
    assert ours[: len(theirs)] == theirs
    assert [(name, default) for name, default, _ in more] == [
        ("activation", None),
        ("negative_slope", 0.01),
        ("inplace", False),
        ("center_only", False),
    ]
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for *_, kind in more)


@pytest.mark.parametrize("dim", SHAPES)
def test_lazy(dim):
    for options in ({}, {"affine": False}, {"bias": False}, {"track_running_stats": False}):
        ours, theirs = (module(**options) for module in pair(dim, options, "Lazy"))
        assert repr(ours) == repr(theirs)
        x = torch.randn(SHAPES[dim][0])
        torch.testing.assert_close(ours(x), theirs(x))
        assert type(ours) is getattr(nn, f"BatchNorm{dim}d")
        assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("dim", SHAPES)
def test_wrong_ranks_and_channels_raise_what_torch_raises(dim):
    ours, theirs = (module(3) for module in pair(dim, {}))
    for shape in ((3,), (4, 3), (4, 3, 5), (4, 3, 5, 6), (2, 3, 2, 3, 4), (2, 3, 1, 1, 1, 1)):
        if shape not in SHAPES[dim] and len(shape) not in map(len, SHAPES[dim]):
            results = []
            for module in (ours, theirs):
                with pytest.raises(ValueError, match="expected") as caught:
                    module(torch.randn(shape))
                results.append(str(caught.value))
            assert results[0] == results[1]
    wrong = torch.randn(4, 4, *SHAPES[dim][0][2:])
    for module in (ours, theirs):
        with pytest.raises(RuntimeError, match="should contain 4 elements not 3"):
            module(wrong)
    torch.testing.assert_close(ours.running_mean, torch.zeros(3))


def test_what_torchs_lack():
    x = torch.randn(4, 3, 5)
    module = nn.BatchNorm1d(3, activation="leaky_relu", negative_slope=0.2)
    assert repr(module).endswith("activation='leaky_relu', negative_slope=0.2)")
    torch.testing.assert_close(module(x), torch.nn.functional.leaky_relu(torch.nn.BatchNorm1d(3)(x), 0.2))
    in_place, y = nn.BatchNorm1d(3, inplace=True), x.clone()
    assert in_place(y) is y
    centered = nn.BatchNorm1d(3, center_only=True)
    torch.testing.assert_close(centered(x), x - x.mean((0, 2), keepdim=True))
    assert torch.equal(centered.running_var, torch.ones(3))
    centered.eval()
    torch.testing.assert_close(centered(x), x - 0.1 * x.mean((0, 2), keepdim=True))
    for module in (nn.BatchNorm1d, nn.LazyBatchNorm1d):
        with pytest.raises(ValueError, match="activation must be one of"):
            module(*([3] if module is nn.BatchNorm1d else []), activation="gelu")


def test_a_module_of_torch_can_become_one_of_ours():
    theirs = torch.nn.BatchNorm2d(3)
    ours = copy.deepcopy(theirs)
    ours.__class__ = nn.BatchNorm2d
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    assert repr(ours) == repr(theirs)


def test_the_modules_compute_with_our_operations():
    y = nn.BatchNorm1d(3)(torch.randn(4, 3))
    assert y.grad_fn.name() == "BatchNormBackward"


def test_training_a_network_goes_as_with_torch():
    losses = []
    for ours in (False, True):
        torch.manual_seed(3)
        if ours:
            norms = (nn.BatchNorm2d(8, activation="leaky_relu", inplace=True), nn.BatchNorm1d(16, activation="tanh"))
        else:
            norms = (
                torch.nn.Sequential(torch.nn.BatchNorm2d(8), torch.nn.LeakyReLU()),
                torch.nn.Sequential(torch.nn.BatchNorm1d(16), torch.nn.Tanh()),
            )
        layers = (torch.nn.Conv2d(3, 8, 3), norms[0], torch.nn.Flatten(), torch.nn.Linear(8 * 36, 16), norms[1])
        model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 1)).double()
        x = torch.randn(64, 3, 8, 8, dtype=torch.float64)
        y = x.mean((1, 2, 3)).unsqueeze(1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(30):
            optimizer.zero_grad()
            loss = (model(x) - y).pow(2).mean()
            loss.backward()
            optimizer.step()
        losses.append(model.eval()(x).pow(2).mean().item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
