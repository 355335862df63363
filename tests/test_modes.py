"""TorchFunctionMode and TorchDispatchMode intercept our calls."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from torchnotes import functional, init
from torchnotes.testing.operation import tensors
from torchnotes.testing.operations import OPERATIONS

COMPOSED = {"gaussian_dropout_penalty"}  # consists of torch's operations
SHOWN_AS = {"gaussian_dropout": "times_normal"}


class Functions(TorchFunctionMode):
    def __init__(self):
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append(getattr(function, "__name__", ""))
        return function(*args, **kwargs or {})


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.seen.append(str(operator))
        return operator(*args, **kwargs or {})


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - COMPOSED))
def test_modes_see_our_functions_and_kernels(name):
    operation, name = OPERATIONS[name], SHOWN_AS.get(name, name)
    for given in operation.samples(operation.laid_out[-1], torch.float32):

        def call(operation=operation, given=given):
            return operation.call(operation.function, given)[0]

        expected = call()
        with Functions() as functions:
            shown = call()
        assert name in functions.seen
        assert torch.equal(shown, expected)
        with Operators() as operators:
            dispatched = call()
        assert torch.equal(dispatched, expected)
        assert any(operator.startswith("torchnotes.") for operator in operators.seen)
        dispatched.sum().backward()
        with Functions() as outer, Functions() as inner:
            assert torch.equal(call(), expected)
        assert name in outer.seen
        assert name in inner.seen


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if not operation.random])
def test_torch_fx_records_calls(name):
    operation = OPERATIONS[name]
    sample = operation.sample({}, operation.small)
    sample.pop("options", None)  # an object, which torch.fx cannot record
    graph = torch.fx.Graph()
    recorder = torch.fx.proxy.GraphAppendingTracer(graph)
    proxies = {argument: torch.fx.Proxy(graph.placeholder(argument), recorder) for argument in tensors(sample)}
    graph.output(operation.function(**{**sample, **proxies}).node)
    module = torch.fx.GraphModule(torch.nn.Module(), graph)

    def replayed(**given):
        return module(**tensors(given))

    torch.testing.assert_close(operation.results(replayed, sample), operation.results(operation.function, sample))


def test_modes_see_initializers():
    key = torch.tensor([3, 5])
    x = torch.ones(40)
    for name, draw in (
        ("uniform_", lambda: init.uniform_(x.clone(), generator=key)),
        ("normal_", lambda: init.normal_(x.clone(), generator=key)),
        ("trunc_normal_", lambda: init.trunc_normal_(x.clone(), generator=key)),
    ):
        expected = draw()
        with Functions() as mode:
            assert torch.equal(draw(), expected)
        assert name in mode.seen
        with torch.device("cpu"):  # also a mode
            assert torch.equal(draw(), expected)


def test_a_mode_can_replace_the_result():
    class Answering(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return "answer" if function is functional.relu else function(*args, **kwargs or {})

    with Answering():
        assert functional.relu(torch.ones(3)) == "answer"
        assert torch.equal(functional.tanh(torch.zeros(3)), torch.zeros(3))
