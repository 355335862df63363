"""torch.fx, torch.jit and torch.export support our modules like torch's."""

import copy
import io

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import torchnotes.functional as F
from conversion_checks import results
from every_module import EveryModule, batch
from torchnotes import nn
from torchnotes.conversion import convert
from torchnotes.ops.activations import ACTIVATIONS

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning",
    "ignore::torch.jit.TracerWarning",  # comparisons of sizes
)

x, y, images = (torch.randn(shape, dtype=torch.float64) for shape in ((6, 3), (6, 3), (2, 3, 4, 5)))
classes = torch.tensor([0, 1, 2, 0, 1, 2])
converted = torch.nn.Sequential(
    torch.nn.Linear(3, 4),
    torch.nn.ReLU(),
    torch.nn.BatchNorm1d(4),
    torch.nn.LeakyReLU(),
    torch.nn.Linear(4, 4),
    torch.nn.BatchNorm1d(4),
)
convert(converted)
DETERMINISTIC = {
    "converted": (converted, (x,)),
    "norm": (nn.BatchNorm1d(3), (x,)),
    "average": (nn.BatchNorm2d(3, momentum=None), (images,)),
    "statistics of the batch": (nn.BatchNorm2d(3, track_running_stats=False, affine=False), (images,)),
    "activated norm": (nn.BatchNorm2d(3, activation="leaky_relu", negative_slope=0.3, inplace=True), (images,)),
    "centered": (nn.BatchNorm2d(3, center_only=True, bias=False), (images,)),
    **{name: (getattr(nn, info.module)(), (x,)) for name, info in ACTIVATIONS.items()},
    "integers": (nn.Softplus(2, 1), (x,)),
    "softmax": (nn.Softmax(1), (x,)),
    "log_softmax": (nn.LogSoftmax(1), (x,)),
    "linear": (nn.Linear(3, 2), (x,)),
    **{f"linear, {name}": (nn.Linear(3, 2, False, activation=name), (x,)) for name in ACTIVATIONS},
    "mlp": (nn.MLP((3, 4, 2), "sigmoid", batch_norm=True), (x,)),
    "mse": (nn.MSELoss(), (x, y)),
    "bits": (nn.BCEWithLogitsLoss(pos_weight=torch.rand(3)), (x, y.sigmoid())),
    "classes": (nn.CrossEntropyLoss(weight=torch.rand(3), label_smoothing=0.1), (x, classes)),
}
OF_OUR_OWN = {
    "options": (nn.CrossEntropyLoss(z_loss=0.1, logit_softcap=2.0, empty="zero", label_smoothing=0.1), (x, classes)),
    "ignored bits": (nn.BCEWithLogitsLoss(label_smoothing=0.1, ignore_index=0.0), (x, y.relu().sign())),
    "synchronised norm": (nn.SyncBatchNorm(3, activation="relu"), (images,)),
    "words": (nn.LinearCrossEntropyLoss(3, 5, bias=True), (x, classes)),
    "quantile": (nn.PinballLoss(0.3, smoothing=0.1), (x, y)),
    "quantiles": (nn.PinballLoss((0.3, 0.5, 0.9)), (x, y[:, 0])),
}
NOISY = {
    "dropout": nn.Dropout(0.3),
    "gaussian": nn.GaussianDropout(0.3),
    "sigma": nn.GaussianDropout(sigma=0.3),
    "gaussian linear": nn.GaussianDropoutLinear(4, 2, p=0.3, activation="relu"),
    "variational": nn.VariationalDropout(4, 0.3),
}


class Wrapped(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x * 1)


class Loss(Wrapped):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.module(x * 1, target)


def wrapped(case: tuple) -> tuple[torch.nn.Module, tuple]:
    module, arguments = case
    return (Wrapped if len(arguments) == 1 else Loss)(module), arguments


def assert_the_same(mine: torch.nn.Module, original: torch.nn.Module, *arguments: Tensor) -> None:
    torch.testing.assert_close(results(mine, *arguments), results(original, *arguments))


@pytest.mark.parametrize("training", (True, False))
def test_fx_treats_our_modules_as_leaves(training):
    model = EveryModule().train(training)
    traced = torch.fx.symbolic_trace(model)
    called = {type(model.get_submodule(str(node.target))) for node in traced.graph.nodes if node.op == "call_module"}
    expected = {type(m) for m in model.modules() if type(m).__module__.startswith("torchnotes.")} - {nn.MLP}
    assert expected <= called
    for graph in (traced, torch.fx.symbolic_trace(traced)):
        for mode in (True, False):  # the traced modules follow train() and eval()
            assert_the_same(copy.deepcopy(graph).train(mode), copy.deepcopy(model).train(mode), *batch(5))


def test_fx_records_our_functions_as_calls():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm
            for options in ({}, {"activation": "tanh"}):
                x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, **options)
            return F.log_softmax(F.leaky_relu(F.linear(x, norm.weight.unsqueeze(0))), 1)

    model = Model()
    traced = torch.fx.symbolic_trace(model)
    assert "batch_norm" in [getattr(node.target, "__name__", "") for node in traced.graph.nodes]
    results = [
        (one(x), dict(one.named_parameters()), one.norm.running_var) for one in map(copy.deepcopy, (traced, model))
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("name", (*DETERMINISTIC, "synchronised norm", "words", "quantile", "quantiles"))
def test_script(name, training):
    model, arguments = wrapped((DETERMINISTIC | OF_OUR_OWN)[name])
    scripted = torch.jit.script(copy.deepcopy(model.train(training)))
    if name in DETERMINISTIC:
        scripted = torch.jit.load(saved(scripted))
    for mode in (training, not training):
        assert_the_same(scripted.train(mode), model.train(mode), *arguments)


@pytest.mark.parametrize("name", NOISY)
def test_script_of_noise(name):
    """Torch generates the noise, so that it differs from ours but has the same mean and variance."""
    model = Wrapped(NOISY[name])
    scripted = torch.jit.load(saved(torch.jit.script(copy.deepcopy(model))))
    many = torch.rand(4).double().expand(100_000, 4)
    results = [module(many) for module in (scripted, model)]
    for moment in (Tensor.mean, Tensor.std):
        torch.testing.assert_close(moment(results[0], 0), moment(results[1], 0), rtol=0.05, atol=0.02)
    assert_the_same(scripted.eval(), model.eval(), many[:5])


def test_scripted_noise_in_place():
    y = x.clone()
    assert torch.equal(torch.jit.script(nn.GaussianDropout(0.5, inplace=True))(y), y)
    assert not torch.equal(y, x)


REJECTED = [
    *((nn.CrossEntropyLoss(**each), classes) for each in ({"z_loss": 0.1}, {"logit_softcap": 2.0}, {"empty": "zero"})),
    *((nn.BCEWithLogitsLoss(**each), y.sigmoid()) for each in ({"label_smoothing": 0.1}, {"ignore_index": 0.0})),
]


@pytest.mark.parametrize(("loss", "target"), REJECTED)
def test_script_rejects_additional_options_of_losses(loss, target):
    with pytest.raises(torch.jit.Error, match="only the options that torch has"):
        torch.jit.script(loss)(x, target)


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("name", [name for name in DETERMINISTIC | OF_OUR_OWN if name != "average"])
def test_trace(name, training):
    """The trace is differentiable and supports inputs of other sizes."""
    model, arguments = wrapped((DETERMINISTIC | OF_OUR_OWN)[name])
    model.train(training)
    traced = torch.jit.load(saved(torch.jit.trace(copy.deepcopy(model), arguments, check_trace=False)))
    model(*arguments)  # as tracing did
    assert_the_same(traced, model, *(torch.cat((t, t)) for t in arguments))


@pytest.mark.parametrize("name", NOISY)
def test_trace_of_noise(name):
    """Torch generates the noise. It is differentiable."""
    traced = torch.jit.trace(Wrapped(NOISY[name]), x.new_ones(5, 4), check_trace=False)
    many = torch.ones(1000, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(traced(many).sum(), many)
    assert gradient.std() > 0.01


@pytest.mark.parametrize("training", (True, False))
def test_export(training):
    norms = (DETERMINISTIC[name][0] for name in ("activated norm", "centered", "statistics of the batch"))
    model = Wrapped(torch.nn.Sequential(*norms)).train(training)
    exported = torch.export.export(copy.deepcopy(model), (images,)).module()
    torch.testing.assert_close(exported(images), model(images))
    torch.testing.assert_close(dict(exported.named_buffers()), dict(model.named_buffers()))


class Writing(torch.nn.Module):
    """Returns the sum of the input after the call, which may modify it in place, and of the output."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        z = self.module(y)
        return y + 3 * z


WAYS = {
    "fx": lambda model, x: torch.fx.symbolic_trace(model),
    "trace": lambda model, x: torch.jit.trace(model, x, check_trace=False),
    "script": lambda model, x: torch.jit.script(model),
    "make_fx": lambda model, x: make_fx(model)(x),
    "compile": lambda model, x: torch.compile(model, fullgraph=True, backend="aot_eager"),
    "export": lambda model, x: torch.export.export(model, (x,)).module(),
}
WRITES = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(True),
    "leaky_relu": nn.LeakyReLU(0.2),
    "leaky_relu in place": nn.LeakyReLU(0.2, inplace=True),
    "dropout": nn.Dropout(1.0),
    "dropout in place": nn.Dropout(1.0, inplace=True),
    "norm in place": nn.BatchNorm1d(3, inplace=True),
    "activated norm in place": nn.BatchNorm1d(3, activation="leaky_relu", inplace=True),
    "functional relu": lambda y: F.relu(y, inplace=True),
    "functional leaky_relu": lambda y: F.leaky_relu(y, 0.2, True),
    "functional dropout": lambda y: F.dropout(y, 1.0, inplace=True),
    "functional norm": lambda y: F.batch_norm(y, None, None, training=True, inplace=True),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("way", WAYS)
def test_in_place_in_recorded_graphs(way, name):
    module = copy.deepcopy(WRITES[name])
    if way == "script" and not isinstance(module, torch.nn.Module):
        return  # a lambda has no source to compile
    # Graphs of these two contain an operator without a derivative.
    differentiable = way not in ("make_fx", "export") or "dropout" not in name
    for training in (True, False):
        model = Writing(module).train(training).double()
        torch.compiler.reset()
        results = []
        for each in (WAYS[way](copy.deepcopy(model), x.clone().requires_grad_()), model):
            leaf = x.clone().requires_grad_(differentiable)
            y = each(leaf)
            results.append((y, torch.autograd.grad(y.pow(2).sum(), leaf) if differentiable else ()))
        torch.testing.assert_close(*results)


def saved(module: torch.jit.ScriptModule) -> io.BytesIO:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return file
