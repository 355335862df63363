"""The C++ autograd node behaves like torch's nodes. The generic checks test its derivatives."""

import itertools
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import torchnotes.functional as F
from torchnotes._native import check_in_place, collect_parameters, norm_of_gradients, update_parameters
from torchnotes.ops.activations.sigmoid import SigmoidBackward
from torchnotes.testing import Operation
from torchnotes.testing.operation import Sample, described, variables
from torchnotes.testing.operations import OPERATIONS
from torchnotes.testing.running import naming
from torchnotes.testing.values import output_of


@pytest.fixture
def x() -> Tensor:
    return torch.randn(7, requires_grad=True)


def test_node_has_the_name_of_its_function(x):
    assert F.sigmoid(x).grad_fn.name() == "SigmoidBackward"
    assert "grad_fn=<SigmoidBackward>" in repr(F.sigmoid(x))


def test_a_second_backward_raises_unless_the_graph_is_retained(x):
    y = F.sigmoid(x)
    (first,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


def test_saved_tensors_are_freed_with_the_graph(x):
    freed = []
    y = F.sigmoid(x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: Canary(freed), lambda canary: torch.ones(7)):
        z = F.sigmoid(y)
    z.sum().backward()
    assert freed == [True]


class Canary:
    def __init__(self, freed: list):
        self.freed = freed

    def __del__(self) -> None:
        self.freed.append(True)


def test_hooks_on_the_node(x):
    seen = []
    y = F.sigmoid(x)
    y.grad_fn.register_prehook(lambda gradients: seen.append("before"))
    y.grad_fn.register_hook(lambda inputs, outputs: seen.append("after"))
    y.sum().backward()
    assert seen == ["before", "after"]


def test_errors_in_unpack_hooks_propagate(x):
    def unpack(_: Tensor) -> Tensor:
        raise KeyError("mine")

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        y = F.sigmoid(x)
    with pytest.raises(KeyError, match="mine"):
        y.sum().backward()


def test_errors_in_the_python_rule_propagate(x, monkeypatch):
    def fail(*args):
        raise KeyError("mine")

    monkeypatch.setattr(SigmoidBackward, "_apply", fail)
    torch.autograd.grad(F.sigmoid(x).sum(), x)  # without create_graph no Python code runs
    with pytest.raises(KeyError, match="mine"):
        torch.autograd.grad(F.sigmoid(x).sum(), x, create_graph=True)


def test_anomaly_mode_names_the_line_of_the_forward(x):
    def backward_of_nan() -> None:
        with torch.autograd.set_detect_anomaly(True):
            y = F.sigmoid(x * float("nan"))
            with pytest.raises(RuntimeError, match=r"SigmoidBackward.*nan"):
                y.sum().backward()

    with pytest.warns(UserWarning, match="Error detected in SigmoidBackward") as caught:
        backward_of_nan()
    assert "test_differentiable_node.py" in str(caught[0].message)


def test_an_undefined_gradient_stays_undefined(x):
    class Undefined(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return None

    assert torch.autograd.grad(Undefined.apply(F.sigmoid(x)).sum(), x, allow_unused=True) == (None,)


def test_deep_graphs_can_be_freed(x):
    y = x
    for _ in range(100_000):
        y = F.relu(y)
    del y


def test_many_threads_share_a_graph(x):
    """Half of the backward passes run the operator, half the Python rule."""
    y = F.sigmoid(F.sigmoid(x))
    (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    results = []

    def work() -> None:
        for create_graph in (False, True) * 20:
            results.extend(torch.autograd.grad(y.sum(), x, retain_graph=True, create_graph=create_graph))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert len(results) == 160
    assert all(torch.equal(result, expected) for result in results)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    from torch._dynamo import compiled_autograd

    torch._dynamo.reset()
    compiled_autograd.reset()
    yield
    torch._dynamo.reset()
    compiled_autograd.reset()


# Torch reads the .grad of every tensor that it makes a FakeTensor of, which warns for non-leaf tensors.
compiles_backward = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def assert_same_by_compiled_autograd(operation: Operation, sample: Sample, backend: str) -> None:
    from torch._dynamo import compiled_autograd

    g = torch.randn(output_of(operation, sample).shape)
    expected = operation.results(operation.function, sample, g)
    with compiled_autograd._enable(torch.compile(backend=backend, fullgraph=True)):
        found = operation.results(operation.function, sample, g)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# Operators are opaque to Inductor, so that two are enough: one with a single tensor and one with several.
COMPILED = [*((name, "aot_eager") for name in OPERATIONS), ("sigmoid", "inductor"), ("cross_entropy", "inductor")]


@compiles_backward
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("name", "backend"), COMPILED)
def test_compiled_autograd(name, backend):
    operation = OPERATIONS[name]
    for shape in (operation.small, operation.small, operation.laid_out[-1]):
        sample = operation.sample(operation.options[0], shape, torch.float32)
        assert_same_by_compiled_autograd(operation, sample, backend)


EVERY = ("input", "weight", "bias")
SUBSETS = [names for n in (1, 2, 3) for names in itertools.combinations(EVERY, n)]


@compiles_backward
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    (
        ("leaky_relu", OPERATIONS["leaky_relu"].options, (("input",),)),
        ("pinball_loss", OPERATIONS["pinball_loss"].options, (("input",),)),
        ("linear", ({}, {"activation": "sigmoid"}), SUBSETS),
        ("batch_norm", ({"activation": "relu"}, {"activation": "tanh", "weight": None}, {"bias": None}), (EVERY,)),
    ),
)
def test_compiled_autograd_distinguishes_options_and_required_gradients(name, options, wanted):
    operation = OPERATIONS[name]
    for given, names in (*itertools.product(options, wanted), (options[0], wanted[0])):
        sample = operation.sample(given, operation.small, torch.float32)
        own = {name: x.detach().requires_grad_(name in names) for name, x in variables(sample).items()}
        with naming(f"for {', '.join(names)}, {described(given)}"):
            assert_same_by_compiled_autograd(operation, sample | own, "eager")


def test_the_input_must_be_a_tensor():
    from torchnotes.ops.activations.leaky_relu import LeakyReLU

    for bad in ((), (None,), ("x",)):
        with pytest.raises(TypeError, match="LeakyReLU: the input must be a Tensor"):
            LeakyReLU.apply(*bad)
    for bad in (torch.ones(3), "x"), (torch.ones(3), None):
        with pytest.raises(TypeError):
            LeakyReLU.apply(*bad)


def test_invalid_arguments_raise_and_do_not_crash():
    x = torch.ones(3, requires_grad=True)
    x.grad = torch.ones(3)
    ((bundle, _),), _ = collect_parameters([x], {}, (), ())
    rest = (0.1, 0.0, 0.0, 0.0, False, False, False, None, None, 0.0, None, None, None)
    positions = (0, 1, -1, -1, -1)
    bad_calls = (
        (bundle, ("a", *positions[1:]), rest),
        (bundle, positions, (*rest[:4], 1, *rest[5:])),
        (bundle, positions, (*rest, ("a",))),
        (x, positions, rest),
    )
    for function, args in (
        (collect_parameters, ([x], {}, (1,), ())),
        (collect_parameters, ([x], {x: 5}, ("a",), ())),
        (collect_parameters, ([x], {x: {"a": 5}}, ("a",), ())),
        (norm_of_gradients, (x,)),
        *((update_parameters, ("torchnotes::sgd_", [call], [])) for call in bad_calls),
        (check_in_place, (None,)),
    ):
        with pytest.raises(TypeError):
            function(*args)
    with pytest.raises(UnicodeEncodeError):
        collect_parameters([x], {}, ("\ud800",), ())
    assert (x == 1).all()
