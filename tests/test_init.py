"""The initializers, and rows 20 to 23 of the notes."""

import inspect
import itertools
import math
import warnings

import pytest
import torch

from checks import outcome
from philox import KEY
from torchnotes import init, nn

SCALED = {  # gain^2 with the defaults, and the default fan
    "glorot_uniform_": (1, "fan_avg"),
    "glorot_normal_": (1, "fan_avg"),
    "he_uniform_": (2, "fan_in"),
    "he_normal_": (2, "fan_in"),
    "lecun_uniform_": (1, "fan_in"),
    "lecun_normal_": (1, "fan_in"),
    "default_uniform_": (1 / 3, "fan_in"),
}
FANS = (  # of a weight of size (6, 10, 3, 4), with 120 inputs and 72 outputs
    (dict(mode="fan_in"), 120),
    (dict(mode="FAN_OUT"), 72),
    (dict(mode="fan_avg"), 96),
    (dict(mode="fan_in", axes=(0, 1)), 72),
    (dict(mode="fan_in", axes=(-1, 0)), 4 * 30),
    (dict(mode="fan_out", groups=2), 36),
    (dict(mode="fan_in", axes=(0, 1), groups=2), 36),
    (dict(mode="fan_in", groups=2), 120),  # dimension 1 has the channels of one group
)


@pytest.mark.parametrize("name", SCALED)
def test_modes_axes_and_groups(name):
    """Numbers of variance 1 are scaled by gain / sqrt(fan). tests/ops/test_random.py tests their distribution."""
    w, (gain2, default) = torch.empty(6, 10, 3, 4), SCALED[name]
    if "uniform" in name:
        unit = init.uniform_(torch.empty_like(w), -math.sqrt(3), math.sqrt(3), generator=KEY)
    else:
        unit = init.normal_(torch.empty_like(w), generator=KEY)
    for options, fan in (*FANS, ({}, 96 if default == "fan_avg" else 120)):
        scaled = getattr(init, name)(w, generator=KEY, **options)
        torch.testing.assert_close(scaled, unit * math.sqrt(gain2 / fan), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"))
def test_torchs_names_and_signatures(name):
    ours, theirs = (
        list(inspect.signature(getattr(space, name)).parameters.values()) for space in (init, torch.nn.init)
    )
    assert [(p.name, p.default, p.kind) for p in ours[: len(theirs)]] == [(p.name, p.default, p.kind) for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])
    assert init.calculate_gain is torch.nn.init.calculate_gain


def of_no_elements(function, shape) -> tuple:
    """The returned shape or the raised exception, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(torch.empty(shape)).shape
        except (ValueError, ZeroDivisionError) as error:
            result = type(error)
    return result, [(str(warning.message), warning.filename) for warning in caught]


@pytest.mark.parametrize("name", SCALED)
def test_tensors_without_fan_or_elements(name):
    function, x = getattr(init, name), torch.ones(3, 4)
    theirs = torch.nn.init.xavier_normal_ if "glorot" in name else torch.nn.init.kaiming_normal_
    for shape in ((0,), (0, 3), (3, 0), (0, 0), (3, 3, 0)):
        assert of_no_elements(function, shape) == of_no_elements(theirs, shape)
    for wrong in (torch.ones(()), torch.ones(3), x.long()):
        assert outcome(function, wrong)[0] is outcome(theirs, wrong)[0]
        assert (wrong == 1).all()
    assert outcome(function, x, mode="fan")[0] is ValueError
    assert "different" in outcome(function, x, axes=(1, 1))[1]
    assert outcome(function, x, axes=(0, 2))[0] is IndexError
    assert (x == 1).all()
    assert function(torch.empty(3, 4, device="meta")).is_meta


def test_bad_options_raise_torchs_errors():
    for bad in ({"nonlinearity": "x"}, {"a": "x"}):
        assert outcome(init.he_normal_, torch.ones(3, 4), **bad)[0] is ValueError
    for gain, x in itertools.product((math.inf, math.nan, -1.0, "x"), (torch.ones(3, 4), torch.ones(0, 4))):
        assert outcome(init.xavier_uniform_, x, gain)[0] is outcome(torch.nn.init.xavier_uniform_, x, gain)[0]
        assert (x == 1).all()


# a whole model


class Model(torch.nn.Module):
    def __init__(self, backwards: bool = False) -> None:
        super().__init__()
        parts = {
            "embedding": lambda: torch.nn.Embedding(200, 16),
            "bag": lambda: torch.nn.EmbeddingBag(200, 16),
            "up": lambda: torch.nn.ConvTranspose2d(16, 8, 3, groups=4),
            "conv": lambda: torch.nn.Conv1d(8, 12, 5, groups=2),
            "norm": lambda: nn.BatchNorm1d(12),
            "lstm": lambda: torch.nn.LSTM(12, 5),
            "dense": lambda: nn.Linear(64, 400),
        }
        for name in reversed(parts) if backwards else parts:
            setattr(self, name, parts[name]())


def test_values_depend_only_on_the_name_and_the_seed():
    torch.manual_seed(1)
    model = init.initialize_(Model(), "he", seed=7)
    torch.manual_seed(2)
    other = init.initialize_(Model(backwards=True), "he", seed=7)
    assert set(model.state_dict()) == set(other.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    alone = init.initialize_(torch.nn.ModuleDict({"dense": torch.nn.Linear(64, 400)}), "he", seed=7)
    assert torch.equal(alone["dense"].weight, model.dense.weight)
    assert not torch.equal(init.initialize_(Model(), "he", seed=8).dense.weight, model.dense.weight)
    assert not torch.equal(model.lstm.weight_ih_l0[:, :5], model.lstm.weight_hh_l0)


def test_default_seed_comes_from_torchs_generator():
    layers = [nn.Linear(8, 8) for _ in range(3)]
    for seed, layer in zip((0, 0, 1), layers, strict=True):
        torch.manual_seed(seed)
        init.initialize_(layer, "glorot")
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert not torch.equal(layers[0].weight, layers[2].weight)
    of_seed = init.initialize_(nn.Linear(8, 8), "glorot", seed=900450186894289456)  # the first half of a key
    assert torch.equal(of_seed.weight, layers[0].weight)


def test_each_parameter_gets_the_appropriate_initializer():
    model = init.initialize_(Model(), "he", seed=1)
    for name, parameter in model.named_parameters():
        if "bias" in name:
            assert (parameter == 0).all(), name
    assert (model.norm.weight == 1).all()
    for weight, fan in ((model.up.weight, 4 * 9), (model.conv.weight, 4 * 5), (model.dense.weight, 64)):
        n = weight.numel()
        assert weight.double().var().item() == pytest.approx(2 / fan, rel=4.5 * math.sqrt(2 / n))
    for embedding in (model.embedding, model.bag):
        assert embedding.weight.std().item() == pytest.approx(1, rel=4.5 / math.sqrt(2 * 3200))


@pytest.mark.parametrize("alias", init.ALIASES)
def test_torchs_names_of_schemes(alias):
    """The initializer is that of torch's name. Without "_uniform" or "_normal" the name is as ambiguous as ours."""
    key = torch.tensor([5, init._number("weight")])
    kind = {"xavier": "xavier_uniform", "kaiming": "kaiming_normal"}.get(alias, alias)
    expected = getattr(init, kind + "_")(torch.empty(40, 30), generator=key)
    assert torch.equal(init.initialize_(nn.Linear(30, 40), alias, seed=5).weight, expected)
    layers = []
    for name in (alias, init.ALIASES[alias]):
        torch.manual_seed(3)
        layers.append(nn.Linear(30, 40, init=name))
        layers[-1].reset_parameters()
    assert layers[0].init == alias
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert nn.MLP((3, 2), init=alias)[0].init == alias
    assert not init.ALIASES.keys() & init.SCHEMES.keys()


@pytest.mark.parametrize("wrong", ("torch", "Xavier", "glorot_", None, 3))
def test_unknown_schemes(wrong):
    with pytest.raises(ValueError, match=r"scheme must be one of 'glorot', .*, 'xavier', .*\. Got: "):
        init.initialize_(nn.Linear(2, 2), wrong)


@pytest.mark.parametrize("scheme", init.SCHEMES)
def test_schemes(scheme):
    layer = init.initialize_(nn.Linear(30, 40), scheme, seed=5)
    key = torch.tensor([5, init._number("weight")])
    assert torch.equal(layer.weight, init.SCHEMES[scheme](torch.empty(40, 30), generator=key))
    drawn = []
    for draw in (lambda: init.SCHEMES[scheme](torch.empty(40, 30)), lambda: nn.Linear(30, 40, init=scheme)):
        torch.manual_seed(3)
        drawn.append(draw())
    weight, layer = drawn
    assert torch.equal(layer.weight, weight)
    assert (layer.bias == 0).all()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, weight)


def test_options_of_schemes():
    slopes = [init.initialize_(nn.Linear(30, 40), "he", seed=5, a=a).weight for a in (0, 1)]
    torch.testing.assert_close(slopes[0], math.sqrt(2) * slopes[1])
    layer = nn.Linear(3, 4)
    before = layer.weight.detach().clone()
    assert outcome(init.initialize_, layer, "x")[0] is ValueError
    assert outcome(init.initialize_, layer, "he", seed=1, nonsense=2)[0] is TypeError
    assert outcome(init.initialize_, layer, "he", seed="x")[0] is TypeError
    parts = torch.nn.ModuleDict({"a": layer, "b": nn.BatchNorm1d(4)})  # its bias comes first
    parts["b"].bias.data.fill_(1)
    assert outcome(init.initialize_, parts, "glorot", gain=math.inf)[0] is RuntimeError
    assert (parts["b"].bias == 1).all()
    assert torch.equal(layer.weight, before)


def test_shared_parameters_use_their_first_name():
    """Names are ordered alphabetically. The hash of a name is pinned, so that every version gives the same numbers."""
    assert init._number("weight") == -8872040418398604730
    for first, second in (("a", "b"), ("b", "a")):
        parts = torch.nn.ModuleDict({first: nn.Linear(4, 4), second: nn.Linear(4, 4)})
        parts[second].weight = parts[first].weight
        init.initialize_(parts, seed=1)
        key = torch.tensor([1, init._number("a.weight")])
        assert torch.equal(parts["b"].weight, init.he_normal_(torch.empty(4, 4), generator=key))


# Rows 21 to 23 of the notes


DEPTH, WIDTH, NETWORKS = 100, 256, 4


def log_growth(name: str, widths: tuple[int, int], rectified: bool) -> float:
    """The mean of ln(mean z_100^2 / mean x^2) over networks of 100 layers."""
    total = 0.0
    for network in range(NETWORKS):
        x = init.normal_(torch.empty(widths[0], dtype=torch.float64), generator=KEY + network)
        z = x
        for layer in range(DEPTH):
            k, m = widths[layer % 2], widths[(layer + 1) % 2]
            key = torch.tensor([network, layer])
            w = getattr(init, name)(torch.empty(m, k, dtype=torch.float64), generator=key)
            z = w @ z
            if rectified:
                z = z.clamp(min=0)
        total += math.log(z.square().mean().item() / x.square().mean().item())
    return total / NETWORKS


def interval(expected: float, per_layer: float) -> tuple[float, float]:
    """The range of ln(|z|^2). A layer multiplies |z|^2 by its expectation times the mean of `width` numbers with mean 1
    and variance per_layer. The logarithm of that mean has the mean -per_layer / 2 width and the variance
    per_layer / width."""
    center = expected - DEPTH * per_layer / (2 * WIDTH)
    spread = math.sqrt(DEPTH * per_layer / WIDTH / NETWORKS)
    return center - 4.5 * spread, center + 4.5 * spread


@pytest.mark.parametrize(
    ("name", "widths", "rectified", "factor"),  # factor: of the mean of z^2, per layer
    (
        ("default_uniform_", (WIDTH, WIDTH), False, 1 / 3),  # row 21: (1/3)^100
        ("lecun_uniform_", (WIDTH, WIDTH), False, 1),  # row 22
        ("lecun_normal_", (WIDTH, WIDTH), False, 1),
        ("glorot_uniform_", (WIDTH, WIDTH), False, 1),
        ("glorot_normal_", (WIDTH, WIDTH), False, 1),
        ("glorot_normal_", (192, 384), False, math.sqrt(8 / 9)),  # 2k/(k+m), then 2m/(k+m): the product is not 1
        ("he_uniform_", (WIDTH, WIDTH), False, 2),  # row 23: grows without a rectifier
        ("he_normal_", (WIDTH, WIDTH), False, 2),
        ("he_uniform_", (WIDTH, WIDTH), True, 1),  # compensates for the half that the rectifier sets to zero
        ("he_normal_", (WIDTH, WIDTH), True, 1),
        ("lecun_normal_", (WIDTH, WIDTH), True, 1 / 2),
    ),
)
def test_a_hundred_layers(name, widths, rectified, factor):
    per_layer = 5 if rectified else 2  # the variance of 2 z^2 [z > 0], 6 - 1, and of z^2, for normal z
    low, high = interval(DEPTH * math.log(factor), per_layer)
    assert low < log_growth(name, widths, rectified) < high
