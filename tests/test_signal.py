"""torchnotes.signal: predictions, measurements, verdicts and the command. Rows 11 and 20 to 23 of the notes."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from checks import activated, threads
from torchnotes import __main__, init, nn, signal
from torchnotes.ops.activations import ACTIVATIONS, ENDINGS
from torchnotes.signal import Flag, Layer, Propagation, propagation
from torchnotes.signal._figure import comparison

DOUBLE = torch.float64


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On a busy machine, deep chains of small products are several times slower with two threads."""
    with threads(1):
        yield


def every(values: tuple[float, ...], count: int) -> Tensor:
    """All tuples of `count` values, so that the columns are exactly independent."""
    return torch.cartesian_prod(*[torch.tensor(values, dtype=DOUBLE)] * count).reshape(-1, count)


# row 20, exactly: every combination of weights and inputs occurs once

WEIGHTS, INPUTS = (-1.0, 2.0, 3.5), (0.0, 1.0, 5.0, 7.0)
MEAN_W, VAR_W = 1.5, (2.5**2 + 0.5**2 + 2.0**2) / 3
MEAN_X, VAR_X = 3.25, (3.25**2 + 2.25**2 + 1.75**2 + 3.75**2) / 4
OF_A_PRODUCT = VAR_W * VAR_X + VAR_X * MEAN_W**2 + VAR_W * MEAN_X**2

LAYERS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    # the layer, the shape of an example, and how many products each element of a channel sums, of two at most
    "Linear": (lambda: torch.nn.Linear(2, 9), (2,), (2,)),
    "ours": (lambda: nn.Linear(2, 9, activation="tanh"), (2,), (2,)),
    "Conv1d": (lambda: torch.nn.Conv1d(1, 9, 2), (1, 3), (2, 2)),
    "padding": (lambda: torch.nn.Conv1d(1, 9, 2, padding=1), (1, 3), (1, 2, 2, 1)),
    "same": (lambda: torch.nn.Conv1d(1, 9, 2, padding="same", dilation=2), (1, 3), (1, 2, 1)),
    "circular": (lambda: torch.nn.Conv1d(1, 9, 2, padding=1, padding_mode="circular"), (1, 3), (2, 2, 2, 2)),
    "stride": (lambda: torch.nn.Conv1d(1, 9, 2, stride=2, padding=1), (1, 3), (1, 2)),
    "dilation": (lambda: torch.nn.Conv1d(1, 9, 2, dilation=2, padding=1), (1, 3), (1, 2, 1)),
    "groups": (lambda: torch.nn.Conv1d(2, 18, 2, groups=2, padding=1), (2, 2), (1, 2, 1)),
    "Conv2d": (lambda: torch.nn.Conv2d(1, 9, (1, 2), padding=(0, 1)), (1, 1, 3), (1, 2, 2, 1)),
    "Conv3d": (lambda: torch.nn.Conv3d(1, 9, (1, 2, 1)), (1, 1, 3, 1), (2, 2)),
    "transposed": (lambda: torch.nn.ConvTranspose1d(1, 9, 2), (1, 3), (1, 2, 2, 1)),
    "stride, t.": (lambda: torch.nn.ConvTranspose1d(1, 9, 2, stride=3, output_padding=1), (1, 2), (1, 1, 0, 1, 1, 0)),
    "padding, t.": (lambda: torch.nn.ConvTranspose1d(1, 9, 2, padding=1), (1, 3), (2, 2)),
    "groups, t.": (lambda: torch.nn.ConvTranspose1d(2, 18, 2, groups=2), (2, 2), (1, 2, 1)),
    "dilation, t.": (lambda: torch.nn.ConvTranspose2d(1, 9, (1, 2), dilation=2), (1, 1, 2), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_variance_of_a_layer_matches_the_prediction(name):
    """Each group has one unit per pair of weights."""
    make, shape, products = LAYERS[name]
    layer = make().double()
    pairs = torch.cat([every(WEIGHTS, 2)] * getattr(layer, "groups", 1))
    layer.weight.data = pairs.reshape(layer.weight.shape)
    torch.nn.init.zeros_(layer.bias)
    (found,) = propagation(layer, every(INPUTS, math.prod(shape)).reshape(-1, *shape), schemes=()).layers
    counts = torch.tensor(products, dtype=DOUBLE)
    expected = counts.mean() * OF_A_PRODUCT + counts.var(correction=0) * (MEAN_W * MEAN_X) ** 2
    assert found.fan_in == 2
    moments = (found.mean_w, found.var_w, found.mean_x, found.var_x)
    assert moments == pytest.approx((MEAN_W, VAR_W, MEAN_X, VAR_X), rel=1e-14)
    assert (found.predicted, found.var_z) == pytest.approx((expected.item(),) * 2, rel=1e-13)


@pytest.mark.parametrize("shape", ((2, 4), (2, 3, 4)))
def test_unbatched_examples(shape):
    kind = (torch.nn.Conv1d, torch.nn.Conv2d)[len(shape) - 2]
    layer, x = kind(2, 6, 2, padding=1), torch.rand(shape)
    found = [propagation(layer, batch, schemes=()).layers[0] for batch in (x, x[None])]
    alone, batch = (replace(each, var_gradient=None, squared_gradient=None) for each in found)
    assert alone == batch


def test_a_layer_by_hand():
    """With w in {1, 3}, x in {0, 2} and a bias in {0, 4}, Var(z) is k (1 + 4 + 1) + 4 = 16 for two inputs."""
    weight = torch.cat([every((1.0, 3.0), 2)] * 2)
    layer = torch.nn.Linear(2, 8, dtype=DOUBLE)
    layer.weight.data, layer.bias.data = weight, torch.tensor([0.0, 4.0], dtype=DOUBLE).repeat_interleave(4)
    found = propagation(layer, every((0.0, 2.0), 2), loss=lambda z: (z * z).sum() / 2, schemes=())
    # The gradient is z = w1 x1 + w2 x2 + b, with the mean 2 * 2 * 1 + 2 and the sum of squares 32 (16 + 36). Over the
    # batch, a unit (w1, w2) has the variance w1^2 + w2^2, on average 10.
    assert found.layers == (Layer("Linear", "Linear", 2, 2.0, 1.0, 1.0, 1.0, 16.0, 16.0, 10 / 16, 16.0, 32 * 52.0),)
    assert found.flags == ()
    assert found.unreached == ()


# measurements


def overwriting(activation: str) -> torch.nn.Module:
    """torch's module, which overwrites z if it can."""
    info = ACTIVATIONS[activation]
    module = getattr(torch.nn, info.module)(*([0.3] if info.takes_slope else []))
    if hasattr(module, "inplace"):
        module.inplace = True
    return module


@pytest.mark.parametrize("fused", (True, False))
@pytest.mark.parametrize("activation", ENDINGS)
def test_z_and_its_gradient_are_measured_before_the_activation(activation, fused):
    """With the activation fused into the layer or after it, where it overwrites z, the results are those of torch."""
    model = nn.MLP((7, 6, 5, 4), activation, negative_slope=0.3, dtype=DOUBLE)
    layers = list(model)
    if not fused:
        layers = [torch.nn.Linear(layer.in_features, layer.out_features, dtype=DOUBLE) for layer in layers]
        middle = [overwriting(activation)] if activation else []
        model = torch.nn.Sequential(layers[0], *middle, layers[1], *middle, layers[2])
    first = x = torch.randn(20, 7, dtype=DOUBLE)
    target = torch.randn(20, 4, dtype=DOUBLE)

    def loss(y: Tensor) -> Tensor:
        return (y - target).square().mean()

    xs, zs = [], []
    for layer in layers:
        xs.append(x)
        zs.append(x @ layer.weight.T + layer.bias)
        x = activated(zs[-1], activation, 0.3)
    found = propagation(model, first, loss=loss, schemes=())
    for layer, x, z, g in zip(found.layers, xs, zs, torch.autograd.grad(loss(zs[-1]), zs), strict=True):
        var_x, var_z, var_g = (t.var(correction=0).item() for t in (x, z, g))
        measured = (layer.mean_x, layer.var_x, layer.var_z, layer.var_gradient, layer.squared_gradient)
        assert measured == pytest.approx((x.mean().item(), var_x, var_z, var_g, g.square().sum().item()), rel=1e-12)
        assert layer.batch_share == pytest.approx(z.var(0, correction=0).mean().item() / var_z, rel=1e-12)


def test_batch_share_of_images_and_of_single_examples():
    """The variance over examples and positions, for each channel."""
    conv, x = torch.nn.Conv2d(2, 5, 3), torch.randn(4, 2, 6, 7)
    z = conv(x).double()
    (layer,) = propagation(conv, x).layers
    assert layer.batch_share == pytest.approx((z.var((0, 2, 3), correction=0).mean() / z.var(correction=0)).item())
    (layer,) = propagation(torch.nn.Linear(3, 4), torch.randn(1, 3)).layers
    assert layer.batch_share is None
    (layer,) = (found := propagation(torch.nn.Linear(3, 1), torch.randn(3))).layers
    assert (layer.var_z, layer.var_gradient, layer.batch_share) == (None, None, None)
    assert layer.squared_gradient > 0
    assert found.flags == ()


def test_default_gradient_of_the_output_has_unit_variance_and_is_reproducible():
    layer, x = torch.nn.Linear(30, 40), torch.randn(500, 30)
    first = propagation(layer, x)
    torch.manual_seed(77)
    assert propagation(layer, x) == first
    # the mean of n squares of normal numbers has the variance 2/n
    assert first.layers[0].var_gradient == pytest.approx(1, abs=4.5 * math.sqrt(2 / 20_000))
    assert first.layers[0].squared_gradient == pytest.approx(20_000, rel=4.5 * math.sqrt(2 / 20_000))


def test_squares_do_not_underflow(dtype):
    """The squares of values around 1e-5 underflow in half precision, and those around 1e-25 in float32."""
    small = 1e-25 if dtype != torch.float16 else 1e-5
    model = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)).to(dtype)
    init.initialize_(model, "lecun", seed=0)
    x = torch.randn(64, 8, dtype=DOUBLE)
    one, other = (
        propagation(model, (x * scale).to(dtype), loss=lambda y, scale=scale: (y * scale).sum(), schemes=()).layers[0]
        for scale in (1.0, small)
    )
    assert other.var_z == pytest.approx(small**2 * one.var_z, rel=0.05)
    assert other.squared_gradient == pytest.approx(small**2 * one.squared_gradient, rel=0.05)


# models


class Model(torch.nn.Module):
    """Changes everything that a call can change: statistics, a counter, an attribute, generators and its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(6, 6))
        self.norm = nn.BatchNorm1d(6, activation="relu")
        self.drop = torch.nn.Dropout(0.5)
        self.last = nn.Linear(6, 3, activation="sigmoid")
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.seen: list[float] = []

    def forward(self, x: Tensor, fail: bool = False) -> Tensor:
        self.calls += 1
        self.seen.append(float(x.mul_(2).sum()))
        with torch.no_grad():
            self.norm.weight.mul_(1.5)
        y = self.last(self.drop(self.norm(self.first(x))))
        if fail:
            raise RuntimeError("in the model")
        return y


def everything(model: Model) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    state = [(None if tensor is None else (id(tensor), tensor._version, tensor.tolist())) for tensor in tensors]
    hooks = [
        list(value)
        for module in model.modules()
        for name, value in vars(module).items()
        if "hooks" in name and hasattr(value, "__iter__")
    ]
    modes = [(module.training, vars(module).get("activation")) for module in model.modules()]
    return [state, hooks, modes, list(model.seen), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("failure", (None, "model", "loss"))
def test_model_is_unchanged(training, failure):
    model = Model().train(training)
    x = torch.randn(10, 6)
    model(x).sum().backward()
    before, x_before = everything(model), x.clone()

    def loss(y: Tensor) -> Tensor:
        torch.rand(3)
        if failure == "loss":
            raise RuntimeError("in the loss")
        return y.square().sum()

    if failure:
        with pytest.raises(RuntimeError, match=f"in the {failure}"):
            propagation(model, (x, failure == "model"), loss=loss)
    else:
        assert len(propagation(model, x, loss=loss, limit=1.0001).tried) == 3
    assert everything(model) == before
    assert torch.equal(x, x_before)


def test_model_runs_in_its_mode():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(6, 6))
    x = torch.ones(1000, 6)
    assert propagation(model, x).layers[0].var_x == pytest.approx(1, abs=4.5 / math.sqrt(6000))  # values of 0 and 2
    assert propagation(model.eval(), x, schemes=()).layers[0].var_x == 0


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step, self.head, self.spare = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.embedding = torch.nn.Embedding(9, 4)

    def forward(self, tokens: Tensor, times: int = 3) -> dict[str, Any]:
        h = self.embedding(tokens)
        for _ in range(times):
            h = self.step(input=h).tanh()
        return {"logits": (self.head(h), tokens), "h": h}


def test_layers_that_are_called_repeatedly_or_never():
    model, tokens = Recurrent(), torch.arange(9)
    found = propagation(model, tokens)
    assert [layer.name for layer in found.layers] == ["step", "step #2", "step #3", "head"]
    assert found.unreached == ("spare",)
    assert "not called: spare" in str(found)
    for batch in ((tokens,), [tokens, 3], dict(tokens=tokens)):
        assert propagation(model, batch) == found
    assert len(propagation(model, {"tokens": tokens, "times": 1}).layers) == 2


def test_every_tensor_of_the_output_gets_a_gradient():
    model = Recurrent()
    with_both = propagation(model, torch.arange(9), schemes=()).layers[2]
    with_one = propagation(model, torch.arange(9), loss=lambda y: y["h"].sum(), schemes=()).layers
    assert with_one[3].var_gradient is None  # the head
    h = torch.tanh(model.step(torch.tanh(model.step(torch.tanh(model.step(model.embedding(torch.arange(9))))))))
    assert with_one[2].squared_gradient == pytest.approx((1 - h.double() ** 2).square().sum().item(), rel=1e-5)
    assert with_both.squared_gradient > 1.2 * with_one[2].squared_gradient  # includes the head


def test_outputs_without_visible_tensors_require_a_loss():
    class Hiding(torch.nn.Sequential):
        def forward(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(y=super().forward(x))

    model, x = Hiding(torch.nn.Linear(3, 3)), torch.randn(5, 3)
    (hidden,), (seen,) = (propagation(model, x, loss=loss).layers for loss in (None, lambda out: out.y.square().sum()))
    assert (hidden.var_gradient, hidden.squared_gradient) == (None, None)
    assert seen.var_gradient == pytest.approx(4 * seen.var_z)
    assert "-" in str(propagation(model, x)).splitlines()[2].split()


def test_frozen_parameters_and_parts_without_a_graph():
    model, x = nn.MLP((5, 5, 5), "tanh"), torch.randn(8, 5)
    expected = propagation(model, x)
    model.requires_grad_(False)
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context:
            assert propagation(model, x.clone()) == expected

    class Detached(torch.nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self[0](x)
            return self[1](h)

    body, head = propagation(Detached(*nn.MLP((5, 5, 5), "tanh")), x).layers
    assert body.var_gradient is None
    assert head.var_gradient == expected.layers[1].var_gradient


def test_checkpointed_and_compiled_models():
    class Checkpointed(torch.nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    model, x = nn.MLP((5, 6, 7), "tanh"), torch.randn(8, 5)
    expected = propagation(model, x)
    assert propagation(Checkpointed(*model), x) == expected
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    assert [layer.var_z for layer in propagation(compiled, x).layers] == [layer.var_z for layer in expected.layers]


def test_hooks_see_the_outputs_of_layers():
    layer, seen = nn.Linear(4, 4, activation="sigmoid"), []
    layer.register_forward_hook(lambda module, arguments, y: seen.append(y))
    x = torch.randn(8, 4)
    propagation(layer, x)
    assert torch.equal(seen[0], layer(x))


# verdicts


def made(
    var_z: list[float | None], squares: list[float | None], shares: list[float | None] | None = None
) -> Propagation:
    rows = enumerate(zip(var_z, squares, shares or [1.0] * len(var_z), strict=True))
    layers = (Layer(str(i), "", 1, 0, 1, 0, 1, 1, v, share, square, square) for i, (v, square, share) in rows)
    return Propagation(tuple(layers), (), 1e3)


@pytest.mark.parametrize(
    ("found", "flags"),
    (
        (made([1, 0.0011, 900], [900, 0.0011, 1]), ()),
        (made([1, 0.0009, 0.5], [1, 1, 1]), (Flag("z", "vanishes", "1"),)),
        (made([1, 1100, 5000], [1, 1, 1]), (Flag("z", "explodes", "1"),)),
        (made([1, 1, 1], [1e-5, 1e-4, 1]), (Flag("gradient", "vanishes", "1"),)),
        (made([1, 1, 1], [1e5, 1, 1]), (Flag("gradient", "explodes", "0"),)),
        (made([1, 1, 1], [1, 0.0, 1]), (Flag("gradient", "vanishes", "1"),)),
        (made([0.0, 0.0], [1, 1]), (Flag("z", "vanishes", "0"),)),
        (
            made([1, math.inf, 1], [math.nan, 1, 1]),
            (Flag("z", "is not finite", "1"), Flag("gradient", "is not finite", "0")),
        ),
        (made([None, 1, 1e-6], [1, 1e6, None]), (Flag("z", "vanishes", "2"), Flag("gradient", "vanishes", "0"))),
        (made([1, 1, 1], [1, 1, 1], [1, None, 0.0009]), (Flag("examples", "become alike", "2"),)),
        (made([1, 1], [1, 1], [1, 0.0011]), ()),
        (made([None], [None], [None]), ()),
    ),
)
def test_flags(found, flags):
    assert found.flags == flags
    for flag in flags:
        line = str(found).splitlines()[2 + int(flag.layer)]
        assert line.startswith(flag.layer)
        assert f"{flag.what} {flag.how}" in line
        assert f"{flag.what} {flag.how} at layer {flag.layer}" in found.verdict
    assert flags or found.verdict == "nothing vanishes or explodes"


def test_values_that_are_not_finite():
    model = nn.MLP((4, 4, 4, 4), "relu")
    model[1].weight.data.fill_(math.inf)
    found = propagation(model, torch.randn(8, 4))
    assert [str(flag) for flag in found.flags][:2] == ["z is not finite", "gradient is not finite"]
    assert found.holding


def test_shapes_alone_are_not_flagged():
    """A narrow head divides the gradient's variance by 4096, but not its length."""
    model = init.initialize_(nn.MLP((64, 4096, 1), "relu"), "he", seed=0)
    found = propagation(model, torch.randn(32, 64))
    first, last = found.layers
    assert first.var_gradient < last.squared_gradient / 32 / 1000
    assert found.flags == ()


@pytest.mark.parametrize("activation", ("tanh", "relu", "leaky_relu", "sigmoid"))
def test_suggested_schemes_work(activation):
    slope = 0.6  # without it, He's variance is 1.36 times too large per layer
    model = nn.MLP((96,) * 61, activation, negative_slope=slope)
    x = torch.randn(64, 96)
    found = propagation(model, x)
    # due to torch's biases
    assert [str(flag) for flag in found.flags] == ["gradient vanishes", "examples become alike"]
    assert found.tried == ("lecun", "glorot", "he")
    if activation == "sigmoid":
        assert found.holding == ()
        assert "none of lecun, glorot, he would hold it" in found.verdict
        return
    if activation == "tanh":
        assert {"glorot", "lecun"} <= {held["scheme"] for held in found.holding}
        assert "would hold it" in found.verdict
    else:
        options = {"a": slope} if activation == "leaky_relu" else {}
        assert found.holding == ({"scheme": "he", **options},)
        assert f"initialize_(model, 'he'{', a=0.6' if options else ''}) would hold it" in found.verdict
    for seed in (0, 1):
        init.initialize_(model, seed=seed, **found.holding[0])
        assert propagation(model, x).flags == ()


def test_only_flagged_models_are_tried_with_the_given_schemes():
    x = torch.randn(64, 32)
    model = init.initialize_(nn.MLP((32,) * 41, "relu"), "default", seed=0)
    found = propagation(model, x, schemes=("he_uniform", "default"))
    assert found.tried == ("he_uniform", "default")
    assert found.holding == ({"scheme": "he_uniform"},)
    shallow = propagation(init.initialize_(nn.MLP((32,) * 9, "relu"), "default", seed=0), x, schemes=("lecun", "he"))
    assert [held["scheme"] for held in shallow.holding] == ["he", "lecun"], "nine halvings are too few to be flagged"
    assert propagation(model, x, schemes=()).tried == ()
    assert propagation(model, x, limit=1e100).tried == ()
    assert propagation(model, x, schemes=()).verdict.count("hold") == 0
    torch_leaky = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LeakyReLU(0.2), torch.nn.Linear(4, 4))
    assert signal._slope(torch_leaky) == {"a": 0.2}
    assert signal._slope(torch.nn.Sequential(torch_leaky, torch.nn.LeakyReLU(0.3))) == {}
    assert signal._slope(nn.BatchNorm1d(3, activation="leaky_relu", negative_slope=0.1)) == {"a": 0.1}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    (
        (torch.nn.ReLU(), {}, "no layer to measure"),
        (torch.nn.LazyLinear(3), {}, "lazy: call it once"),
        (torch.nn.Linear(3, 3), dict(batch=torch.randn(0, 3)), "no layer was called, of Linear"),
        (torch.nn.Linear(3, 3), dict(limit=1.0), "limit must be above 1. Got: 1.0"),
        (torch.nn.Linear(3, 3), dict(limit=math.nan), "limit must be above 1"),
        (torch.nn.Linear(3, 3), dict(schemes=("x",)), "'glorot', .* Got: 'x'"),
        (torch.nn.Linear(3, 3), dict(loss=lambda y: y), "a tensor of one number"),
        (torch.nn.Linear(3, 3), dict(loss=lambda y: 1.0), "a tensor of one number"),
        (torch.nn.functional.relu, {}, r"torch.nn.Module. Got: (builtin|function)"),
    ),
)
def test_bad_input(model, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        propagation(model, **{"batch": torch.randn(4, 3), **options})


# the command


def command(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert __main__.main(["signal", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == "" or "--json" in arguments
    return out


DEPTH, WIDTH = 100, 128
SMALL = ("--width", str(WIDTH), "--batch", "64")


def test_a_hundred_layers_with_each_activation_and_scheme(capsys, tmp_path):
    networks = json.loads(command(capsys, *SMALL, "--json", "-", "--plot", str(tmp_path / "figure.png")))
    found = {(network["activation"], network["scheme"]): network for network in networks}
    flags = {pair: {flag["what"]: flag["how"] for flag in network["flags"]} for pair, network in found.items()}
    assert len(found) == 12
    vanishes = {"z": "vanishes", "gradient": "vanishes"}
    for scheme in ("default", "lecun", "glorot", "he"):
        assert flags["sigmoid", scheme] == {"gradient": "vanishes", "examples": "become alike"}
    assert flags["tanh", "default"] == vanishes
    assert flags["tanh", "lecun"] == flags["tanh", "glorot"] == {}
    assert flags["tanh", "he"] == {"gradient": "explodes"}
    for scheme in ("default", "lecun", "glorot"):
        assert flags["relu", scheme] == vanishes
    assert flags["relu", "he"] == {}
    for network in networks:
        assert [layer["name"] for layer in network["layers"]] == [str(number) for number in range(DEPTH)]
        for layer in network["layers"]:  # if all examples are alike, the variance is estimated from WIDTH numbers
            assert layer["var_z"] == pytest.approx(layer["predicted"], rel=4.5 * math.sqrt(2 / WIDTH))
    # Row 11: s'^2 <= 1/16. For z ~ N(0, v), sech u >= e^(-u^2/2) gives E[s'^2] >= E[e^(-z^2/2)]/16 = 1/16 sqrt(1 + v).
    # The weights multiply by 1/3, 1 or 2. The mean and deviation of ln are as in test_init.py with 3 instead of 2.
    spread = 4.5 * math.sqrt(3 / WIDTH / DEPTH)
    for scheme, factor in (("default", 1 / 3), ("lecun", 1), ("he", 2)):
        layers = found["sigmoid", scheme]["layers"]
        rate = math.log(layers[0]["squared_gradient"] / layers[-1]["squared_gradient"]) / (DEPTH - 1)
        v = sum(layer["var_z"] for layer in layers) / DEPTH
        most = math.log(factor / 16)
        assert most - math.log(1 + v) / 2 - 3 / 2 / WIDTH - spread < rate < most + spread
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


SHALLOW = ("--layers", "40", "--width", "64", "--batch", "32")


def test_the_table_of_networks(capsys):
    lines = command(capsys, *SHALLOW, "--activation", "sigmoid", "relu", "--scheme", "default", "he").splitlines()
    assert lines[0].split() == ["activation", "scheme", "Var(z)", "1", "40", "of", "batch", "Var(dL/dz)", "40", "1"]
    rows = [line.split() for line in lines[2:6]]
    assert [(row[:2], row[7:]) for row in rows] == [
        (["sigmoid", "default"], ["gradient", "vanishes,", "examples", "become", "alike"]),
        (["sigmoid", "he"], ["gradient", "vanishes,", "examples", "become", "alike"]),
        (["relu", "default"], ["z", "vanishes,", "gradient", "vanishes"]),
        (["relu", "he"], ["stable"]),
    ]
    assert (float(rows[3][2]), float(rows[3][5])) == pytest.approx((2, 1), rel=0.3)
    assert float(rows[2][6]) < 1e-20 < float(rows[2][5])
    kept = "Schemes that keep both variances within a factor of 1000:"
    assert lines[-3:] == [kept, "sigmoid: none", "relu: he"]


def test_the_table_of_layers(capsys):
    alone = (*SHALLOW, "--activation", "leaky_relu", "--scheme", "default")
    lines, again, other = (command(capsys, *alone, *seed).splitlines() for seed in ((), (), ("--seed", "1")))
    assert lines[0].split()[:4] == ["layer", "kind", "k", "Var(w)"]
    assert len(lines) == 2 + 40 + 2
    assert lines[2].split()[:3] == ["0", "Linear", "64"]
    assert "initialize_(model, 'he', a=0.01) would hold it" in lines[-1]
    assert lines == again
    assert [line.split()[3] for line in lines[2:42]] != [line.split()[3] for line in other[2:42]], "Var(w)"


def test_schemes_by_torchs_names(capsys):
    """One network for a scheme of two names."""
    records = {}
    for names in (["xavier", "kaiming_normal", "glorot"], ["glorot", "he_normal"]):
        __main__.main(
            ["signal", "--layers", "3", "--width", "8", "--activation", "relu", "--json", "-", "--scheme", *names]
        )
        records[tuple(names)] = capsys.readouterr().out
    one, other = records.values()
    assert one == other
    model = nn.MLP([32] * 30, "sigmoid", init="xavier")
    found = signal.propagation(model, torch.randn(16, 32), schemes=("kaiming", "xavier"))
    assert found.tried == ("kaiming", "xavier")
    leaky = nn.MLP([32] * 30, "leaky_relu", negative_slope=0.4, init="default")
    held = signal.propagation(leaky, torch.randn(16, 32), schemes=("kaiming",)).holding
    assert held == ({"scheme": "kaiming", "a": 0.4},)


def test_he_uses_the_slope_of_leaky_relu(capsys):
    small = ("--layers", "2", "--width", "8", "--activation", "leaky_relu", "identity", "--scheme", "he", "--json", "-")
    leaky, linear = (network["layers"][1]["var_w"] for network in json.loads(command(capsys, *small)))
    assert leaky * (1 + 0.01**2) == pytest.approx(linear, rel=1e-12)


def test_figures_are_replaced_only_by_complete_ones(monkeypatch, tmp_path):
    old, new = tmp_path / "old.png", tmp_path / "new.png"
    old.write_text("old")
    monkeypatch.setattr(signal, "propagation", None)
    for path in (old, new):
        with pytest.raises(TypeError, match="not callable"):
            __main__.main(["signal", "--layers", "2", "--width", "4", "--plot", str(path)])
    assert old.read_text() == "old"
    assert not new.exists()


def test_number_of_threads_is_restored(capsys):
    with threads(2):
        command(capsys, "--layers", "2", "--width", "4", "--activation", "relu")
        assert torch.get_num_threads() == 2


def test_without_matplotlib(capsys, monkeypatch, tmp_path):
    using = [name for name in sys.modules if name.split(".")[0] == "matplotlib"]
    for name in {"torchnotes._notebook", *using} & sys.modules.keys():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = propagation(torch.nn.Linear(3, 3), torch.randn(4, 3))
    with pytest.raises(ImportError, match="pip install matplotlib"):
        found.plot()
    assert __main__.main(["signal", "--plot", str(tmp_path / "x.png")]) == 2
    assert "matplotlib" in capsys.readouterr().err


# the figures


def test_the_figure_shows_the_numbers():
    found = propagation(nn.MLP((8,) * 6, "tanh"), torch.randn(16, 8))
    forward, backward = found.plot().axes
    columns = [(n.var_z, n.predicted, n.batch_share * n.var_z, n.var_gradient) for n in found.layers]
    for line, numbers in zip((*forward.lines, *backward.lines), zip(*columns, strict=True), strict=True):
        assert list(line.get_xdata()) == [1, 2, 3, 4, 5]
        assert list(line.get_ydata()) == list(numbers)
    assert forward.get_yscale() == backward.get_yscale() == "log"
    labels = [text.get_text() for text in forward.get_legend().get_texts()]
    assert labels[:2] == ["measured", "predicted from its input"]


def test_the_figure_of_networks():
    x, activations = torch.randn(16, 8), ("sigmoid", "tanh", "relu")
    networks = {
        (activation, scheme): propagation(init.initialize_(nn.MLP((8,) * 4, activation), scheme, seed=0), x).layers
        for activation in activations
        for scheme in ("default", "he_uniform")
    }
    figure = comparison(networks)
    forward, backward = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title() for axes in forward] == list(activations)
    for (activation, scheme), layers in networks.items():
        for row, number in ((forward, "var_z"), (backward, "var_gradient")):
            axes = row[activations.index(activation)]
            (line,) = (line for line in axes.lines if line.get_label() == scheme)
            assert list(line.get_ydata()) == [getattr(layer, number) for layer in layers]
    dashed = [[line.get_ydata() for line in axes.lines if line.get_linestyle() == "--"] for axes in figure.axes]
    assert dashed[0] == []  # the mean of a sigmoid sustains the variance
    for (powers,), base in zip(dashed[1:3], (3, 6), strict=True):
        assert powers == pytest.approx([base**-1, base**-2, base**-3])
    for (powers,), base in zip(dashed[3:], (48, 3, 6), strict=True):
        assert powers[0] == pytest.approx(base**-3)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["default", "he_uniform", "predicted for default", "part made by the batch"]


@pytest.mark.parametrize("weight", (0.0, 1e200))
def test_figure_of_vanishing_and_exploding_values(weight, tmp_path):
    model = nn.MLP((4,) * 4, "relu", dtype=DOUBLE)
    for layer in model:
        torch.nn.init.constant_(layer.weight, weight)
        torch.nn.init.zeros_(layer.bias)
    propagation(model, torch.rand(5, 4, dtype=DOUBLE), schemes=()).plot().savefig(tmp_path / "figure.png")
