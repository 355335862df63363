"""torchnotes.signal.watch: what it measures, that it changes nothing, its warnings, and where it logs."""

import copy
import io
import math
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import torchnotes
from checks import activated, threads
from torchnotes import nn, optim, signal
from torchnotes.signal import Measurement, SignalWarning, watch
from torchnotes.signal._observer import _nothing
from torchnotes.signal._problems import ADVICE, Updates, problems

DOUBLE = torch.float64


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


def step(model: Any, optimizer: Any, x: Tensor, y: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def classifier(activation: str = "relu", **options: Any) -> torch.nn.Module:
    return nn.MLP((6, 16, 16, 4), activation, **options)


def digits(count: int = 32, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 6, dtype=dtype), torch.randint(4, (count,))


def network() -> torch.nn.Module:
    """Convolutions and layers with activations of all kinds, some of which overwrite their input."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.LeakyReLU(0.1, inplace=True),
        torch.nn.Conv2d(8, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(inplace=True),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 4 * 4, 16),
        torch.nn.Dropout(0.1),
        torch.nn.Sigmoid(),
        torch.nn.Linear(16, 16),
        torch.nn.Tanh(),
        torch.nn.Linear(16, 4),
    )


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(12, 3, 8, 8), torch.randint(4, (12,))


# measurements


def share_of_dead(y: Tensor) -> float:
    return sum(bool((unit == 0).all()) for unit in y.movedim(1, 0)) / y.size(1)


@pytest.mark.filterwarnings("ignore::torchnotes.signal.SignalWarning")  # most tanhs are saturated
@pytest.mark.parametrize("fused", (True, False))
@pytest.mark.parametrize("activation", ("relu", "leaky_relu", "sigmoid", "tanh", "softplus", None))
def test_measurements_match_an_independent_computation(activation, fused):
    model = nn.MLP((6, 12, 12, 4), activation, negative_slope=0.3, dtype=DOUBLE)
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(6)
            layer.bias.copy_(torch.linspace(-30, 0, len(layer.bias)))  # some units are never positive
    (x, y), layers = digits(dtype=DOUBLE), list(model)
    if not fused:
        plain = [copy.deepcopy(layer) for layer in layers]
        middle = []
        for layer in plain:
            layer.activation = None
        if activation:
            kind = {"relu": "ReLU", "leaky_relu": "LeakyReLU"}.get(activation, activation.capitalize())
            middle = [getattr(torch.nn, kind)(*([0.3] if activation == "leaky_relu" else []))]
        layers = plain
        model = torch.nn.Sequential(plain[0], *middle, plain[1], *middle, plain[2])
    old = [layer.weight.detach().clone() for layer in layers]
    zs, h = [], x
    for number, layer in enumerate(layers):
        zs.append(h @ layer.weight.T + layer.bias)
        h = activated(zs[-1], activation, 0.3) if number < 2 else zs[-1]
    loss = torch.nn.functional.cross_entropy(h, y)
    gradients = torch.autograd.grad(loss, zs, retain_graph=True)
    of_parameters = torch.autograd.grad(loss, list(model.parameters()))
    of_weights = [g for g in of_parameters if g.dim() == 2]

    optimizer = optim.SGD(model.parameters(), lr=0.03)
    with watch(model, optimizer) as monitor:
        step(model, optimizer, x, y)
    (record,) = monitor.records
    assert record.step == 0
    assert record.gradient_norm == pytest.approx(sum(g.square().sum().item() for g in of_parameters) ** 0.5, rel=1e-12)
    assert len(record.layers) == 3
    for number, measured in enumerate(record.layers):
        z, g, w = zs[number], gradients[number], old[number]
        assert measured.kind == "Linear"
        assert measured.var_z == pytest.approx(z.var(correction=0).item(), rel=1e-10)
        assert measured.var_gradient == pytest.approx(g.var(correction=0).item(), rel=1e-10)
        assert measured.squared_gradient == pytest.approx(g.square().sum().item(), rel=1e-12)
        assert measured.weight_gradient == pytest.approx(of_weights[number].norm().item(), rel=1e-12)
        assert measured.update_ratio == pytest.approx((0.03 * of_weights[number].norm() / w.norm()).item(), rel=1e-9)
        has_units = activation == "relu" and number < 2
        assert measured.dead == (pytest.approx(share_of_dead(z.relu())) if has_units else None)
        assert measured.positions == (32 if has_units else 0)
        slope = {"sigmoid": torch.sigmoid(z) * torch.sigmoid(-z) * 4, "tanh": 1 - z.tanh() ** 2}.get(activation)
        expected = None if slope is None or number == 2 else pytest.approx((slope < 0.01).double().mean().item())
        assert measured.saturated == expected
    if activation in ("relu", "sigmoid", "tanh"):  # the weights are large enough to have some
        assert 0 < (record.layers[1].dead or record.layers[1].saturated or 0) < 1


def test_convolutions_and_batch_normalization():
    """Units are channels, also of activations that are fused into a batch normalization."""
    conv, norm = torch.nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40, activation="relu")
    model = torch.nn.Sequential(conv, norm, torch.nn.Flatten(), torch.nn.Linear(40 * 36, 4)).double()
    torch.nn.init.uniform_(norm.bias, -4, 0)
    x, y = (images()[0].double(), images()[1])
    z = conv(x)
    h = norm(z)
    expected = share_of_dead(h)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model[3](h.flatten(1)), y), z)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer) as monitor:
        step(model, optimizer, x, y)
    first, last = monitor.records[0].layers
    assert 0 < expected < 1
    assert (first.name, first.kind, first.dead, first.positions) == ("0", "Conv2d", pytest.approx(expected), 12 * 36)
    assert first.var_z == pytest.approx(z.var(correction=0).item())
    assert first.squared_gradient == pytest.approx(gradient.square().sum().item())
    assert last.dead is None


def test_activations_of_converted_models():
    """The activation is computed by the layer before it, which returns no z."""
    found = []
    for converted in (False, True):
        torch.manual_seed(0)
        model, (x, y) = network(), images()
        model[8] = torch.nn.Identity()
        if converted:
            assert len(torchnotes.convert(model, inplace=True).fused) == 3
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model, optimizer) as monitor:
            step(model, optimizer, x, y)
        found.append(monitor.records[0])
    for layer, of_converted in zip(found[0].layers, found[1].layers, strict=True):
        for name, value in vars(layer).items():  # float32, whose products differ in their roundings
            assert vars(of_converted)[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)
    assert found[0].layers[1].dead is not None
    assert [layer.saturated is None for layer in found[1].layers] == [True, True, False, False, True]


def test_gradients_whose_squares_underflow():
    """The squares of 1e-30 underflow in float32."""
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with watch(model, optimizer) as monitor:
        (model(digits()[0]).sum() * 1e-30).backward()
        optimizer.step()
    assert monitor.records[0].layers[1].squared_gradient == pytest.approx(32 * 6 * 1e-60, rel=1e-5)
    assert monitor.records[0].layers[0].squared_gradient > 0
    assert not monitor.problems.keys() & {"gradient vanishes", "gradient explodes"}


# steps


def test_measures_one_step_in_many():
    model, (x, y) = classifier(), digits()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    logged = []
    monitor = watch(model, optimizer, every=4, log=lambda numbers, step: logged.append((step, numbers)))
    for number in range(9):
        assert has_hooks(model) == (number % 4 == 0)
        step(model, optimizer, x, y)
    assert [record.step for record in monitor.records] == [0, 4, 8]
    assert logged == [(record.step, record.numbers) for record in monitor.records]
    names = {"var_z", "var_gradient", "weight_gradient", "update_ratio"}
    assert logged[0][1].keys() == {"gradient_norm", "dead/0", "dead/1", *(f"{n}/{i}" for n in names for i in range(3))}
    resumed = watch(model, optimizer, every=4, first_step=9)
    monitor.close()
    for _ in range(4):
        step(model, optimizer, x, y)
    assert [record.step for record in resumed.records] == [12]
    assert len(monitor.records) == 3


def has_hooks(model: torch.nn.Module) -> bool:
    return any(module._forward_hooks for module in model.modules())


def test_accumulated_and_repeated_calls_are_one_sample():
    model, (x, y) = classifier(), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def record(parts: int) -> signal.Record:
        with watch(copied := copy.deepcopy(model), optimizer_of_copy := torch.optim.SGD(copied.parameters(), lr=0.1)):
            pass
        monitor = watch(copied, optimizer_of_copy)
        for x_part, y_part in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (torch.nn.functional.cross_entropy(copied(x_part), y_part) / parts).backward()
        optimizer_of_copy.step()
        monitor.close()
        return monitor.records[0]

    whole, parts = record(1), record(4)
    for one, other in zip(whole.layers, parts.layers, strict=True):
        for name, value in vars(one).items():
            assert vars(other)[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)
    del optimizer


def test_evaluation_and_failures_are_no_training():
    model, (x, y) = classifier("sigmoid"), digits()
    expected = torch.nn.functional.linear(x, model[0].weight, model[0].bias).double().var(correction=0).item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=2) as monitor:
        model.eval()
        model(100 * x)
        model.train()
        with torch.no_grad():
            model(100 * x)
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.randn(3, 5))
        step(model, optimizer, x, y)
        assert not has_hooks(model)
    assert monitor.records[0].layers[0].var_z == pytest.approx(expected, rel=1e-6)


def test_without_an_optimizer_the_user_counts():
    model, (x, y) = classifier(), digits()
    with watch(model, every=2) as monitor:
        for _ in range(3):
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            monitor.step()
    assert [record.step for record in monitor.records] == [0, 2]
    assert monitor.records[0].layers[0].update_ratio is None
    assert monitor.records[0].layers[0].weight_gradient > 0
    with (
        watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as other,
        pytest.raises(RuntimeError, match="by the optimizer"),
    ):
        other.step()


def test_a_closure_runs_in_the_step():
    model, (x, y) = classifier(), digits()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with watch(model, optimizer, limit=1e30) as monitor, warnings.catch_warnings():
        warnings.simplefilter("ignore", SignalWarning)  # its first step is long
        optimizer.step(closure)
    assert all(layer.update_ratio > 0 and layer.weight_gradient > 0 for layer in monitor.records[0].layers)


def test_records_of_a_long_run_become_sparser(monkeypatch):
    monkeypatch.setattr("torchnotes.signal._watch.RECORDS", 10)
    model, (x, y) = classifier(), digits(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with watch(model, optimizer, every=1) as monitor:
        for _ in range(30):
            step(model, optimizer, x, y)
    steps = [record.step for record in monitor.records]
    assert 5 <= len(steps) < 10
    assert (steps[0], steps[-1]) == (0, 29)


# nothing changes


def parameters_after(make: Callable[[], Any], data: Callable[[], Any], watched: bool, **options: Any) -> list[Tensor]:
    torch.manual_seed(1)
    model, (x, y) = make(), data()
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    monitor = watch(model, optimizer, every=2) if watched else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SignalWarning)
        for _ in range(5):
            with torch.autocast("cpu", **options) if options else torch.enable_grad():
                loss = torch.nn.functional.cross_entropy(model(x).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if monitor is not None:
        assert len(monitor.records) == 3
        assert all(layer.var_z is not None and layer.var_gradient is not None for layer in monitor.records[2].layers)
        monitor.close()
    return [*(p.detach() for p in model.parameters()), *model.buffers(), torch.get_rng_state()]


def converted(**options: Any) -> torch.nn.Module:
    torchnotes.convert(model := network(), **options)
    return model


class Checkpointed(torch.nn.Sequential):
    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x.requires_grad_(self.reentrant), use_reentrant=self.reentrant)


class Reentrant(Checkpointed):
    reentrant = True


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "torch": (network, images),
    "converted": (converted, images),
    "converted, in place": (lambda: converted(inplace=True), images),
    "torchnotes": (lambda: classifier("sigmoid", gaussian_dropout=0.1), digits),
    "torchnotes, normalized": (lambda: classifier("leaky_relu", batch_norm=True, dropout=0.1), digits),
    "checkpoints": (lambda: Checkpointed(*classifier()), digits),
    "reentrant checkpoints": (lambda: Reentrant(*classifier()), digits),
}


@pytest.mark.parametrize("kind", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("name", MODELS)
def test_training_computes_the_same_bits(name, kind):
    make, data = MODELS[name]

    def in_kind() -> tuple[Tensor, Tensor]:
        x, y = data()
        return x.to(kind), y

    watched, plain = (parameters_after(lambda: make().to(kind), in_kind, watched) for watched in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(watched, plain, strict=True))


@pytest.mark.parametrize("name", ("torch", "torchnotes"))
def test_autocast_computes_the_same_bits(name):
    watched, plain = (parameters_after(*MODELS[name], watched, dtype=torch.bfloat16) for watched in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(watched, plain, strict=True))


def test_checkpoints_measure_the_same():
    (x, y), found = digits(), []
    for kind in (torch.nn.Sequential, Checkpointed, Reentrant):
        torch.manual_seed(0)
        model = kind(*classifier())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model, optimizer) as monitor:
            step(model, optimizer, x.clone(), y)
        found.append({layer.name: layer for layer in monitor.records[0].layers})
    for of_checkpoint in found[1:]:
        for name, layer in found[0].items():
            for measure in ("var_z", "var_gradient", "squared_gradient", "update_ratio"):
                assert getattr(of_checkpoint[name], measure) == pytest.approx(getattr(layer, measure), rel=1e-6)
            assert of_checkpoint[name].dead == layer.dead


def test_closing_leaves_the_model_as_it_was():
    def hooks(module: Any) -> list[Any]:
        return [list(value) for name, value in sorted(vars(module).items()) if "hooks" in name and value is not None]

    model, (x, y) = network(), images()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[Any] = []
    model[3].register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    before = [hooks(module) for module in model.modules()] + [hooks(optimizer)]
    monitor = watch(model, optimizer)
    step(model, optimizer, x, y)
    with pytest.raises(ZeroDivisionError), watch(model, optimizer):
        raise ZeroDivisionError
    monitor.close()
    monitor.close()
    assert [hooks(module) for module in model.modules()] + [hooks(optimizer)] == before
    assert len(seen) == 1


def test_copies_of_the_model_are_not_watched():
    model, (x, y) = classifier(), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer) as monitor:
        torch.save(model, file := io.BytesIO())
        file.seek(0)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
            torch.nn.functional.cross_entropy(copied(100 * x), y).backward()
            hooks = [hook for module in copied.modules() for hook in module._forward_hooks.values()]
            assert {hook.see for hook in hooks} == {_nothing}
        step(model, optimizer, x, y)
    assert monitor.records[0].layers[0].var_z < 10


# kinds of models


def test_parametrized_layers_are_not_computed_again():
    """spectral_norm changes its buffers whenever the weight is computed."""

    def normalized() -> torch.nn.Module:
        model = classifier()
        torch.nn.utils.parametrizations.spectral_norm(model[0])
        torch.nn.utils.parametrizations.spectral_norm(model[2])
        return model

    (x, y), found = digits(), []
    for watched in (True, False):
        torch.manual_seed(0)
        model = normalized()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = watch(model, optimizer) if watched else None
        step(model, optimizer, x, y)
        found.append([*model.parameters(), *model.buffers()])
        if monitor:
            fused, _, plain = monitor.records[0].layers
            assert fused.var_z is None  # it has an activation
            assert None not in (plain.var_z, plain.update_ratio, fused.update_ratio, fused.var_gradient)
            monitor.close()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_frozen_layers_and_layers_that_are_not_called():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.spare = torch.nn.Embedding(6, 6), torch.nn.Linear(3, 3)
            self.body, self.head = torch.nn.Linear(6, 6), torch.nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.embedding(x)).relu())

    model, y = Model(), digits()[1]
    model.embedding.requires_grad_(False)
    model.body.requires_grad_(False).eval()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    with watch(model, optimizer) as monitor:
        step(model, optimizer, torch.randint(6, (32,)), y)
    body, head = monitor.records[0].layers
    assert (body.name, head.name) == ("body", "head")
    assert body.var_z > 0
    assert (body.var_gradient, body.weight_gradient, body.update_ratio) == (None, None, None)
    assert head.update_ratio > 0
    assert monitor.unreached == ("spare",)
    assert "not called: spare" in str(monitor)


def test_a_matrix_makes_a_layer():
    """As in transformers' Conv1D, which GPT-2 consists of."""

    class Transposed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model, (x, y) = torch.nn.Sequential(torch.nn.LayerNorm(6), Transposed()), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer) as monitor:
        step(model, optimizer, x, y)
    assert [layer.kind for layer in monitor.records[0].layers] == ["Transposed"]


def test_compiled_models_run_eagerly_in_measured_steps():
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model, (x, y) = network(), images()
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(compiled, optimizer, every=3) as monitor:
        for _ in range(7):
            step(compiled, optimizer, x, y)
    assert [record.step for record in monitor.records] == [0, 3, 6]
    assert len(monitor.records[2].layers) == 5
    assert len(graphs) == 1  # no break, no recompilation


def test_watches_may_overlap():
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model, (x, y) = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 4)), digits()
    compiled = torch.compile(model, backend=backend)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.01) for layer in model]
    with watch(model[0], optimizers[0], every=2) as first, watch(model[1], optimizers[1], every=3) as second:
        for _ in range(5):
            torch.nn.functional.cross_entropy(compiled(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert [record.step for record in first.records] == [0, 2, 4]
    assert [record.step for record in second.records] == [0, 3]
    assert len(graphs) == 1
    graphs.clear()
    torch.compile(lambda x: x + 1, backend=backend)(x)  # the compiler works again
    assert len(graphs) == 1


def test_a_model_that_is_compiled_later():
    """In a process of its own, where nothing has imported the compiler."""
    program = """
import sys, torch
from torchnotes import signal
model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
watch = signal.watch(model, every=4)
assert "torch._dynamo" not in sys.modules
compiled = torch.compile(model, backend="eager", fullgraph=True)
for _ in range(6):
    compiled(torch.randn(8, 6)).square().mean().backward()
    watch.step()
assert [record.step for record in watch.records] == [1, 4], watch.records
"""
    assert subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", program], check=False).returncode == 0


def test_a_compiled_step_of_the_optimizer_is_an_error():
    torch._dynamo.reset()
    model, (x, y) = classifier(), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    compiled = torch.compile(lambda: optimizer.step(), backend="eager")
    with watch(model, optimizer):
        torch.nn.functional.cross_entropy(model(x), y).backward()
        compiled()
        with pytest.raises(RuntimeError, match=r"call watch\(model\) without the optimizer"):
            compiled()
    with watch(model, every=2) as monitor:
        for _ in range(4):
            torch.nn.functional.cross_entropy(model(x), y).backward()
            compiled()
            monitor.step()
    assert [record.step for record in monitor.records] == [0, 2]


def test_nothing_is_never_measured_silently():
    model, (x, y) = classifier().eval(), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, every=1) as monitor:
        with pytest.warns(
            SignalWarning, match=r"measured nothing in step 0: no layer was called in training mode .* 0, 1"
        ):
            step(model, optimizer, x, y)
        step(model, optimizer, x, y)  # once
    assert monitor.records == []
    assert str(monitor) == "nothing measured yet"


def test_a_step_that_a_scaler_skips_does_not_count():
    model, (x, y) = classifier(), digits()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.01), torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with watch(model, optimizer, every=10) as monitor:
        for _ in range(6):
            optimizer.zero_grad()
            scaler.scale(10 * torch.nn.functional.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert len(monitor.records) == 1
    assert monitor.records[0].step > 0
    assert monitor.problems == {}


def test_data_parallel(process_group):
    from torch.nn.parallel import DistributedDataParallel

    model, (x, y) = classifier(), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(parallel := DistributedDataParallel(model), optimizer) as monitor:
        step(parallel, optimizer, x, y)
    assert [layer.name for layer in monitor.records[0].layers] == ["0", "1", "2"]
    assert all(layer.squared_gradient > 0 for layer in monitor.records[0].layers)


def test_rejects_what_it_cannot_watch():
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for bad, message in (
        ((lambda x: x,), r"model must be a torch.nn.Module. Got: function"),
        ((model, "sgd"), "optimizer must be a torch.optim.Optimizer. Got: str"),
        ((torch.jit.script(torch.nn.Linear(2, 2)),), "scripted"),
    ):
        with pytest.raises(TypeError, match=message):
            watch(*bad)
    for options, message in (({"every": 0}, "every must be a positive integer. Got: 0"), ({"limit": 1}, "limit")):
        with pytest.raises(ValueError, match=message):
            watch(model, optimizer, **options)
    with pytest.raises(ValueError, match="lazy: call it once"):
        watch(torch.nn.Sequential(torch.nn.LazyLinear(3), nn.LazyBatchNorm1d()))
    with pytest.raises(ValueError, match="no layer to measure"):
        watch(torch.nn.ReLU())
    with pytest.raises(TypeError, match=r"log must be a directory, .* Got: int"):
        watch(model, log=3)
    assert not has_hooks(model)
    assert not optimizer._optimizer_step_post_hooks


# warnings


def train(model: torch.nn.Module, lr: float = 1e-4, steps: int = 1, scale: float = 1.0, every: int = 1) -> signal.Watch:
    x, y = digits(64)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with watch(model, optimizer, every=every) as monitor:
        for _ in range(steps):
            step(model, optimizer, scale * x, y)
    return monitor


def initialized(sizes: tuple[int, ...], activation: str | None, scale: float, bias: float = 0.0) -> torch.nn.Module:
    """Weights whose variance is scale / k."""
    model = nn.MLP(sizes, activation, init="lecun")
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(scale**0.5)
            layer.bias.add_(bias)
    return model


DEEP = (6, *[24] * 12, 4)
CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "signal vanishes": (
        lambda: train(initialized(DEEP, None, 0.1)),
        r"layer \d+ is .* times that of the first layer.*'he'",
    ),
    "signal explodes": (lambda: train(initialized(DEEP, None, 20.0)), "1/k"),
    "gradient vanishes": (
        lambda: train(nn.MLP(DEEP, "sigmoid", init="glorot")),
        r"s' <= 1/4.*initialize_\(model, 'he'\)",
    ),
    "gradient explodes": (lambda: train(initialized(DEEP, None, 20.0)), "clip the gradient"),
    "not finite": (lambda: train(initialized((6, 6, 4), "relu", 1.0), scale=math.inf), "inf or nan"),
    "dead units": (lambda: train(initialized((6, 16, 4), "relu", 1.0, bias=-9.0)), "100 % .* layer 0 .*leaky_relu"),
    "saturated units": (lambda: train(initialized((6, 16, 4), "sigmoid", 4000.0)), r"9\d % .* layer 0 .*'glorot'"),
    "updates too large": (lambda: train(classifier(), lr=100.0), "rule of thumb"),
    "updates too small": (lambda: train(classifier(), lr=1e-9, steps=3), "rule of thumb"),
}


def test_every_problem_has_a_case():
    assert CASES.keys() == ADVICE.keys()


@pytest.mark.parametrize("kind", CASES)
def test_warns_once_and_quotes_the_notes(kind):
    make, advice = CASES[kind]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor = make()
    texts = [str(each.message) for each in caught]
    (text,) = (text for text in texts if f": {kind}: " in text)
    assert re.search(advice, text)
    assert re.match(r"step \d+: ", text)
    assert monitor.problems[kind].kind == kind
    assert str(monitor.problems[kind]) in str(monitor)
    assert all(each.category is SignalWarning and each.filename == __file__ for each in caught)


def test_the_second_time_is_silent():
    with pytest.warns(SignalWarning) as caught:
        monitor = train(initialized((6, 16, 4), "relu", 1.0, bias=-9.0), steps=3)
    assert sum("dead units" in str(each.message) for each in caught) == 1
    assert all(record.problems for record in monitor.records)
    with pytest.warns(SignalWarning):  # another run
        train(initialized((6, 16, 4), "relu", 1.0, bias=-9.0))


@pytest.mark.parametrize("activation", ("relu", "tanh"))
def test_good_training_has_no_problems(activation):
    monitor = train(nn.MLP((6, *[32] * 6, 4), activation, init="he" if activation == "relu" else "glorot"), 1e-2, 40)
    assert monitor.problems == {}
    assert len(monitor.records) == 40


def test_what_is_no_problem():
    limit = 1e6
    good = Measurement("0", "Linear", 1.0, 1.0, 1.0, 1.0, 1e-3)
    of_zero_weights = Measurement("1", "Linear", 0.0, 1.0, 0.0, 1.0, None)
    few = Measurement("2", "Linear", 1.0, 1.0, 1.0, 1.0, 1e-3, dead=0.9, positions=4)
    confident = Measurement("3", "Linear", 1.0, 1.0, 1.0, 1.0, 1e-3, saturated=0.9)  # the last one
    assert list(problems([good, of_zero_weights, few, confident], limit)) == []
    assert [found.kind for found in problems([good, confident, good], limit)] == ["saturated units"]
    keys = [Measurement(f"{number}", "Linear", 1.0, 1.0, 1e-9 if number % 3 else 1.0) for number in range(9)]
    assert list(problems(keys, limit)) == []


def test_updates_may_be_long_once():
    updates = Updates()
    for ratio, found in ((0.5, 0), (0.05, 0), (0.5, 0), (0.5, 1), (0.5, 1), (0.0, 0), (2.0, 1)):
        updates.see([Measurement("0", "Linear", update_ratio=ratio)])
        assert [(problem.kind, problem.value) for problem in updates.problems()] == [
            ("updates too large", ratio)
        ] * found


# results


def monitored() -> signal.Watch:
    with pytest.warns(SignalWarning):
        return train(initialized((6, 16, 4), "relu", 1.0, bias=-9.0), steps=3)


def test_table_page_and_plot(tmp_path):
    monitor = monitored()
    text = str(monitor)
    assert text.startswith("step 2, gradient norm ")
    header, _, first, last = text.splitlines()[2:6]
    assert header.split() == ["layer", "kind", "Var(z)", "Var(dL/dz)", "|dL/dW|", "|dW|/|W|", "dead", "saturated"]
    assert first.split()[-5:] == ["100.0", "%", "-", "dead", "units"]
    assert last.split()[:2] == ["1", "Linear"]
    html = monitor._repr_html_()
    assert "<td>100.0 %</td>" in html
    assert 'class="warning"' in html
    figure = monitor.plot()
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[0, 1, 2]] * 2
    assert list(figure.axes[0].lines[0].get_ydata()) == [record.layers[0].var_z for record in monitor.records]
    assert len(figure.axes[3].lines) == 1  # dead units of one layer
    monitor.save_html(path := tmp_path / "run.html")
    page = path.read_text()
    assert "dead units" in page
    assert re.search(r'<img alt="[^"]{20,}" src="data:', page)
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_page_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monitored().save_html(path := tmp_path / "run.html")
    assert "requires matplotlib" in path.read_text()


# logging


def logging_to(log: Any, steps: int = 5) -> signal.Watch:
    model, (x, y) = classifier(), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, every=2, log=log) as monitor:
        for _ in range(steps):
            step(model, optimizer, x, y)
    return monitor


@pytest.mark.parametrize("given", ("directory", "writer"))
def test_tensorboard(tmp_path, given):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    if given == "directory":
        monitor = logging_to(tmp_path)
    else:
        with SummaryWriter(str(tmp_path)) as writer:
            monitor = logging_to(writer)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == monitor.records[0].numbers.keys()
    read = [(event.step, event.value) for event in events.Scalars("var_z/1")]
    assert read == [(r.step, pytest.approx(r.layers[1].var_z)) for r in monitor.records]


def test_weights_and_biases(tmp_path):
    wandb = pytest.importorskip("wandb")
    run = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True, console="off"))
    try:
        monitor = logging_to(run)
        assert run.summary["update_ratio/2"] == monitor.records[-1].layers[2].update_ratio
        assert run.summary["watch_step"] == 4
    finally:
        run.finish()


def test_lightning(tmp_path):
    pytest.importorskip("lightning")
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    from torchnotes.signal.lightning import WatchCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = classifier()

        def training_step(self, batch: Any) -> Tensor:
            return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch: Any) -> None:
            self.model(100 * batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    def trainer(callback: WatchCallback, steps: int) -> lightning.Trainer:
        quiet = dict(
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, accelerator="cpu"
        )
        logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
        return lightning.Trainer(
            max_steps=steps, callbacks=[callback], logger=logger, accumulate_grad_batches=2, **quiet
        )

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*digits(80)), batch_size=8)
    callback = WatchCallback(every=2)
    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning recommends more workers
        trainer(callback, 5).fit(module, data, data)
    assert [record.step for record in callback.watch.records] == [0, 2, 4]
    assert [layer.name for layer in callback.watch.records[0].layers] == ["model.0", "model.1", "model.2"]
    assert callback.watch.records[0].layers[0].var_z < 10  # without the validation
    assert callback.watch.records[0].layers[0].update_ratio > 0
    (table,) = tmp_path.rglob("metrics.csv")
    assert "var_z/model.0" in table.read_text().splitlines()[0]
    assert not has_hooks(module)
    with pytest.raises(ValueError, match="expects one optimizer, got 2"):
        callback.on_train_start(SimpleNamespace(optimizers=[1, 2]), module)


def test_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from torchnotes.signal.transformers import WatchCallback

    sizes = dict(n_layer=1, n_embd=16, n_head=2, n_positions=8, vocab_size=30, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    tokens = torch.randint(30, (24, 8))
    data = [dict(input_ids=row, labels=row) for row in tokens]
    options = dict(max_steps=5, per_device_train_batch_size=2, gradient_accumulation_steps=2, use_cpu=True)
    quiet = dict(report_to=["tensorboard"], disable_tqdm=True, save_strategy="no", logging_strategy="no")
    arguments = transformers.TrainingArguments(str(tmp_path), **options, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers and its dependencies
        trainer = transformers.Trainer(model, arguments, train_dataset=data)
        trainer.add_callback(callback := WatchCallback(trainer, every=2))
        trainer.train()
    records = callback.watch.records
    assert [record.step for record in records] == [0, 2, 4]
    assert {layer.kind for layer in records[0].layers} == {"Conv1D", "Linear"}
    assert all(layer.update_ratio is not None for layer in records[0].layers)
    assert not has_hooks(model)
    (file,) = tmp_path.rglob("events.*")
    events = EventAccumulator(str(file)).Reload()
    (name,) = (name for name in events.Tags()["scalars"] if name.endswith("var_z/transformer.h.0.mlp.c_fc"))
    assert [event.step for event in events.Scalars(name)] == [0, 2, 4]
