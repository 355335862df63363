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

SCALED = {  # gain^2 with the defaults, and the fan of (out, in)
    "glorot_uniform_": (1, lambda k, m: (k + m) / 2),
    "glorot_normal_": (1, lambda k, m: (k + m) / 2),
    "he_uniform_": (2, lambda k, m: k),
    "he_normal_": (2, lambda k, m: k),
    "lecun_uniform_": (1, lambda k, m: k),
    "lecun_normal_": (1, lambda k, m: k),
    "default_uniform_": (1 / 3, lambda k, m: k),
}
UNIFORM = [name for name in SCALED if "uniform" in name]


def unit(name: str, like: torch.Tensor) -> torch.Tensor:
    """The numbers of variance 1 that an initializer scales."""
    fill = init.uniform_ if name in UNIFORM else init.normal_
    numbers = (-math.sqrt(3), math.sqrt(3)) if name in UNIFORM else (0, 1)
    return fill(torch.empty_like(like), *numbers, generator=KEY)


@pytest.mark.parametrize("name", SCALED)
def test_scale(name, dtype):
    gain2, fan = SCALED[name]
    for shape, k, m in (((30, 50), 50, 30), ((30, 20, 3, 5), 300, 450), ((7, 1), 1, 7)):
        w = getattr(init, name)(torch.empty(shape, dtype=dtype), generator=KEY)
        expected = unit(name, w.float() if dtype != torch.float64 else w) * math.sqrt(gain2 / fan(k, m))
        torch.testing.assert_close(w, expected.to(dtype))


@pytest.mark.parametrize("name", SCALED)
def test_modes_axes_and_groups(name):
    function = getattr(init, name)
    gain2, _ = SCALED[name]

    def fan(w: torch.Tensor, **keywords: object) -> float:
        """The fan that the scale of the numbers implies."""
        return gain2 / ((function(w, generator=KEY, **keywords) / unit(name, w)).double().square().median().item())

    w = torch.empty(6, 10, 3, 4)  # 120 inputs, 72 outputs
    assert fan(w, mode="fan_in") == pytest.approx(120, rel=1e-5)
    assert fan(w, mode="FAN_OUT") == pytest.approx(72, rel=1e-5)
    assert fan(w, mode="fan_avg") == pytest.approx(96, rel=1e-5)
    assert fan(w, mode="fan_in", axes=(0, 1)) == pytest.approx(72, rel=1e-5)
    assert fan(w, mode="fan_in", axes=(-1, 0)) == pytest.approx(4 * 30, rel=1e-5)
    assert fan(w, mode="fan_out", groups=2) == pytest.approx(36, rel=1e-5)
    assert fan(w, mode="fan_in", axes=(0, 1), groups=2) == pytest.approx(36, rel=1e-5)
    assert fan(w, mode="fan_in", groups=2) == pytest.approx(120, rel=1e-5), "dimension 1 has the channels of one group"


@pytest.mark.parametrize("name", ("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"))
def test_torchs_names_signatures_and_scales(name):
    ours, theirs = getattr(init, name), getattr(torch.nn.init, name)
    parameters = [list(inspect.signature(f).parameters.values()) for f in (ours, theirs)]
    assert [(p.name, p.default, p.kind) for p in parameters[0][: len(parameters[1])]] == [
        (p.name, p.default, p.kind) for p in parameters[1]
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[0][len(parameters[1]) :])
    w = torch.empty(200, 300)
    sweep = ({}, {"gain": 0.3}) if "xavier" in name else ({}, {"a": 0.3}, {"mode": "fan_out", "nonlinearity": "tanh"})
    for keywords in sweep:
        deviations = [f(w, **keywords).double().std().item() for f in (ours, theirs)]
        assert deviations[0] == pytest.approx(deviations[1], rel=4.5 / math.sqrt(60_000))
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


def test_tensors_without_fan_or_elements():
    for name in SCALED:
        function = getattr(init, name)
        for shape in ((), (3,)):
            x = torch.ones(shape)
            assert outcome(function, x) == outcome(torch.nn.init.xavier_normal_, x)
            assert (x == 1).all()
        theirs = torch.nn.init.xavier_normal_ if "glorot" in name or "xavier" in name else torch.nn.init.kaiming_normal_
        for shape in ((0,), (0, 3), (3, 0), (0, 0), (3, 3, 0)):
            assert of_no_elements(function, shape) == of_no_elements(theirs, shape)
        assert function(torch.empty(3, 4, device="meta")).is_meta
        x = torch.ones(3, 4)
        assert outcome(function, x, mode="fan")[0] is ValueError
        assert "different" in outcome(function, x, axes=(1, 1))[1]
        assert outcome(function, x, axes=(0, 2))[0] is IndexError
        assert (x == 1).all()
        integers = torch.ones(3, 4, dtype=torch.int64)
        assert outcome(function, integers)[0] is outcome(torch.nn.init.xavier_normal_, integers)[0]
    for bad in ({"nonlinearity": "x"}, {"a": "x"}):
        assert outcome(init.he_normal_, torch.ones(3, 4), **bad)[0] is ValueError
    for gain, x in itertools.product((math.inf, math.nan, -1.0, "x"), (torch.ones(3, 4), torch.ones(0, 4))):
        assert outcome(init.xavier_uniform_, x, gain)[0] is outcome(torch.nn.init.xavier_uniform_, x, gain)[0]
        assert (x == 1).all()


def test_local_tensors_of_dtensors():
    """DTensor.to_local returns a plain tensor, which is filled like any tensor of its shape."""
    whole = torch.zeros(8, 6)
    part = whole.chunk(2)[1]
    init.he_normal_(part, generator=KEY)
    assert torch.equal(part, init.he_normal_(torch.empty(4, 6), generator=KEY))
    assert (whole[:4] == 0).all()


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
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(init.initialize_(nn.Linear(8, 8), "glorot").weight)
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])
    model = nn.Linear(8, 8)
    torch.manual_seed(0)
    init.initialize_(model, "glorot")
    of_seed = init.initialize_(nn.Linear(8, 8), "glorot", seed=900450186894289456)  # the first half of a key
    assert torch.equal(model.weight, of_seed.weight)


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


@pytest.mark.parametrize("scheme", init.SCHEMES)
def test_schemes(scheme):
    layer = init.initialize_(nn.Linear(30, 40), scheme, seed=5)
    key = torch.tensor([5, init._number("weight")])
    assert torch.equal(layer.weight, init.SCHEMES[scheme](torch.empty(40, 30), generator=key))
    made = nn.Linear(30, 40, init=scheme)
    assert made.weight.std().item() == pytest.approx(layer.weight.std().item(), rel=0.15)
    assert (made.bias == 0).all()


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


# Rows 20 to 23 of the notes


def test_variance_of_a_product():
    """Var(wx) = Var w Var x + Var x (E w)^2 + Var w (E x)^2"""
    n = 1 << 21
    w = init.normal_(torch.empty(n, dtype=torch.float64), 0.7, 0.5, generator=KEY)
    x = init.uniform_(torch.empty(n, dtype=torch.float64), -1, 3, generator=KEY + 1)
    var_w, mean_w, var_x, mean_x = 0.25, 0.7, 16 / 12, 1.0
    expected = var_w * var_x + var_x * mean_w**2 + var_w * mean_x**2
    product = w * x
    spread = (product - product.mean()).square().std().item() / math.sqrt(n)
    assert abs(product.var().item() - expected) < 4.5 * spread


@pytest.mark.parametrize("name", SCALED)
def test_variance_of_a_layer(name):
    """Var(z) = k Var(w) Var(x) for zero means."""
    k, m, n = 200, 300, 2000
    gain2, fan = SCALED[name]
    w = getattr(init, name)(torch.empty(m, k, dtype=torch.float64), generator=KEY)
    x = 0.5 * init.normal_(torch.empty(n, k, dtype=torch.float64), generator=KEY + 1)
    expected = k * gain2 / fan(k, m) * 0.25
    # |w|^2 of each of the m rows of w has a relative variance of at most 2/k; n samples estimate it
    assert (x @ w.T).var().item() == pytest.approx(expected, rel=4.5 * math.sqrt(2 / (k * m) + 2 / (n * 100)))


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
