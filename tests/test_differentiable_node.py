"""The C++ autograd node behaves like torch's nodes. The generic checks test its derivatives."""

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import torchnotes.functional as F
from philox import KEY, factors_of_dropout
from torchnotes._native import call_on, check_in_place, gather
from torchnotes.ops.activations.sigmoid import SigmoidBackward

OPERATIONS = {
    "sigmoid": (F.sigmoid, torch.sigmoid),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), lambda x: torch.nn.functional.leaky_relu(x, 0.2)),
    "falling leaky_relu": (lambda x: F.leaky_relu(x, -0.3), lambda x: torch.nn.functional.leaky_relu(x, -0.3)),
    "relu in place": (lambda x: F.relu(x * 1, inplace=True), torch.relu),
    "softmax": (lambda x: F.softmax(x, 0), lambda x: torch.softmax(x, 0)),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, torch.tensor(1), label_smoothing=0.1),
        lambda x: torch.nn.functional.cross_entropy(x, torch.tensor(1), label_smoothing=0.1),
    ),
    "mse_loss": (
        lambda x: F.mse_loss(x, torch.ones_like(x)),
        lambda x: torch.nn.functional.mse_loss(x, torch.ones_like(x)),
    ),
    "pinball_loss": (
        lambda x: F.pinball_loss(x[:, None].expand(-1, 2), torch.zeros_like(x), (0.2, 0.8)),
        lambda x: x.abs().mean() / 2,
    ),
    "dropout": (
        lambda x: F.dropout(x, 0.4, generator=KEY),
        lambda x: x * factors_of_dropout(KEY, x.shape, x.dtype, 0.4).float(),
    ),
    "dropout in place": (
        lambda x: F.dropout(x * 1, 0.4, inplace=True, generator=KEY),
        lambda x: x * factors_of_dropout(KEY, x.shape, x.dtype, 0.4).float(),
    ),
}


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


def by_compiled_autograd(function: Callable[[Tensor], Tensor], x: Tensor, backend: str) -> Tensor:
    from torch._dynamo import compiled_autograd

    x = x.detach().requires_grad_()
    with compiled_autograd._enable(torch.compile(backend=backend, fullgraph=True)):
        function(x).pow(2).sum().backward()
    assert x.grad is not None
    return x.grad


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


# Operators are opaque to Inductor, so that two are enough: one with a single tensor and one with several.
COMPILED = [*((name, "aot_eager") for name in OPERATIONS), ("sigmoid", "inductor"), ("cross_entropy", "inductor")]


@compiles_backward
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("name", "backend"), COMPILED)
def test_compiled_autograd(name, backend):
    ours, theirs = OPERATIONS[name]
    for n in (5, 5, 9):
        x = torch.randn(n, requires_grad=True)
        (expected,) = torch.autograd.grad(theirs(x).pow(2).sum(), x)
        torch.testing.assert_close(by_compiled_autograd(ours, x, backend), expected)


@compiles_backward
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_autograd_distinguishes_options():
    x = -torch.ones(3)
    for slope in (0.1, 0.3, 0.1):
        g = by_compiled_autograd(lambda x, slope=slope: F.leaky_relu(x, slope), x, "eager")
        torch.testing.assert_close(g, torch.full((3,), -2 * slope**2))
    for tau in (0.1, 0.3, 0.1):
        g = by_compiled_autograd(lambda x, tau=tau: F.pinball_loss(x, torch.zeros(3), tau, reduction="sum"), x, "eager")
        torch.testing.assert_close(g, torch.full((3,), -6 * tau**2))


@compiles_backward
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_autograd_of_several_gradients():
    from torch._dynamo import compiled_autograd

    x, g = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    for activation, theirs in (("relu", torch.relu), ("tanh", torch.tanh)):
        for numbers in ((torch.rand(3) + 0.5, torch.randn(3)), (None, torch.randn(3)), (None, None)):
            leaves = [t.detach().requires_grad_() for t in (x, *numbers) if t is not None]
            given = [None if t is None else leaves[-1 if t is numbers[1] else 1] for t in numbers]
            exact = theirs(torch.nn.functional.batch_norm(leaves[0], None, None, *given, training=True))
            expected = torch.autograd.grad(exact, leaves, g)
            with compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
                F.batch_norm(leaves[0], None, None, *given, training=True, activation=activation).backward(g)
            torch.testing.assert_close([t.grad for t in leaves], list(expected), rtol=1e-5, atol=1e-5)


@compiles_backward
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_autograd_distinguishes_required_gradients():
    from torch._dynamo import compiled_autograd

    x, weight, bias, g = torch.randn(5, 4), torch.randn(3, 4), torch.randn(3), torch.randn(5, 3)
    for activation, theirs in (("sigmoid", torch.sigmoid), (None, lambda z: z)):
        for wanted in itertools.product((True, False), repeat=3):
            tensors = [t.detach().requires_grad_(wants) for t, wants in zip((x, weight, bias), wanted, strict=True)]
            leaves = [t for t in tensors if t.requires_grad]
            if not leaves:
                continue
            expected = torch.autograd.grad(theirs(torch.nn.functional.linear(*tensors)), leaves, g)
            with compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
                F.linear(*tensors, activation=activation).backward(g)
            torch.testing.assert_close([t.grad for t in leaves], list(expected))


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
    ((bundle, _),), _ = gather([x], {}, (), ())
    rest = (0.1, 0.0, 0.0, 0.0, False, False, False, None, None, 0.0, None, None, None)
    for function, args in (
        (gather, ([x], {}, (1,), ())),
        (gather, ([x], {x: 5}, ("a",), ())),
        (gather, ([x], {x: {"a": 5}}, ("a",), ())),
        (call_on, ("torchnotes::gradient_norm", bundle, ("a",), ())),
        (call_on, ("torchnotes::gradient_norm", bundle, (), ())),
        (call_on, ("torchnotes::sgd_", bundle, (0, 1, -1, -1, -1), (*rest[:4], 1, *rest[5:]))),
        (call_on, ("torchnotes::sgd_", bundle, (0, 1, -1, -1, -1), (*rest, ("a",)))),
        (check_in_place, (None,)),
    ):
        with pytest.raises(TypeError):
            function(*args)
    with pytest.raises(UnicodeEncodeError):
        gather([x], {}, ("\ud800",), ())
    assert (x == 1).all()
