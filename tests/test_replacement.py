"""Our functions may replace torch's of the same name without infinite recursion."""

import inspect

import pytest
import torch
from torch import nn

import torchnotes.functional
import torchnotes.init

OURS = {name: f for name, f in vars(torchnotes.functional).items() if inspect.isfunction(f)}
FILLS = {name: f for name, f in vars(torchnotes.init).items() if inspect.isfunction(f)}
OTHER_ARGUMENTS = {"batch_norm", "binary_cross_entropy_with_logits"}  # torch.X and torch.nn.functional.X differ
CLASSES = torch.tensor([0, 2, 1, 1])
ARGUMENTS = {  # the arguments after the first one
    "batch_norm": lambda x: (None, None, None, None, True),
    "binary_cross_entropy_with_logits": lambda x: (torch.ones_like(x),),
    "cross_entropy": lambda x: (CLASSES.to(x.device),),
    "linear": lambda x: (torch.ones_like(x),),
    "linear_cross_entropy": lambda x: (torch.ones_like(x), CLASSES.to(x.device)),
    "log_softmax": lambda x: (-1,),
    "mse_loss": lambda x: (torch.ones_like(x),),
    "softmax": lambda x: (-1,),
}


class Subclass(torch.Tensor):
    pass


class Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def under(context, call, x):
    with context:
        return call(x)


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def second_derivative(call, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(call(x).double().sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.sum(), x, allow_unused=True)[0] if gradient.requires_grad else gradient


def compiled(call, x):
    torch.compiler.reset()
    return torch.compile(call, backend="eager")(x)


def per_sample(call, x):
    gradient = torch.func.grad(lambda x: call(x).sum())
    return torch.vmap(gradient, randomness="same")(torch.stack((x, x)))


WAYS = {
    "plain": lambda call, x: call(x),
    "autocast": lambda call, x: under(autocast(), call, x),
    "autocast from bfloat16": lambda call, x: under(autocast(), call, x.bfloat16()),
    "second derivative": second_derivative,
    "vmap": lambda call, x: torch.vmap(call, randomness="same")(torch.stack((x, x))),
    "gradient under vmap": per_sample,
    "Hessian": lambda call, x: torch.func.hessian(lambda x: call(x).double().sum())(x),
    "jvp": lambda call, x: torch.func.jvp(call, (x,), (x,)),
    "compiled": compiled,
    "function mode": lambda call, x: under(Mode(), call, x),
    "subclass": lambda call, x: call(x.as_subclass(Subclass)),
    "meta": lambda call, x: call(x.to("meta")),
    "float16": lambda call, x: call(x.half()),
    "no rows": lambda call, x: call(x.new_empty(4, 0)),
    "complex": lambda call, x: call(x + 1j),
    "integers": lambda call, x: call(x.long()),
    "sparse": lambda call, x: call(x.to_sparse()),
    "nested": lambda call, x: call(torch.nested.nested_tensor([x, x])),
}


def replace(monkeypatch):
    for space, functions in ((nn.functional, OURS), (torch, OURS), (nn.init, FILLS)):
        for name in functions.keys() & vars(space).keys():
            if not (space is torch and name in OTHER_ARGUMENTS):
                monkeypatch.setattr(space, name, functions[name])


def outcome(way, call):
    """The resulting tensors, or the type of the exception."""
    torch.manual_seed(0)
    try:
        return torch.utils._pytree.tree_leaves(WAYS[way](call, torch.randn(4, 3)))
    except Exception as error:
        return [type(error)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        if not isinstance(other, torch.Tensor):
            assert one is other
        elif not other.is_meta and not other.is_nested:
            torch.testing.assert_close(one, other, equal_nan=True)  # a compiled graph calls ours under torch's name


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("name", sorted(OURS.keys() & vars(nn.functional).keys()))
def test_functions_do_not_recurse(name, monkeypatch):
    def call(x):
        return OURS[name](x, *ARGUMENTS.get(name, lambda x: ())(x))

    expected = {way: outcome(way, call) for way in WAYS}
    replace(monkeypatch)
    for way in WAYS:
        assert_same(outcome(way, call), expected[way])


@pytest.mark.parametrize("name", sorted(FILLS.keys() & vars(nn.init).keys() - {"calculate_gain"}))
def test_initializers_do_not_recurse(name, monkeypatch):
    replace(monkeypatch)
    fill, x = getattr(nn.init, name), torch.zeros(3, 3)
    for tensor in (x, x.half(), x.to("meta"), x.as_subclass(Subclass), nn.Parameter(x.clone()), x.to(torch.complex64)):
        try:
            fill(tensor)
        except (NotImplementedError, RuntimeError) as error:
            assert not isinstance(error, RecursionError)  # noqa: PT017 # which is a RuntimeError


class Strict(torch.Tensor):
    """Like some wrapper subclasses, rejects everything but the functions of torch.nn.functional."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return function.__name__ if function.__name__ in vars(nn.functional) else NotImplemented


@pytest.mark.parametrize("name", sorted(OURS.keys() & vars(nn.functional).keys()))
def test_torch_function_runs_before_attributes_are_read(name):
    x = torch.randn(4, 3)
    arguments = ARGUMENTS.get(name, lambda x: ())(x)
    assert OURS[name](x.as_subclass(Strict), *arguments) == name
    if arguments and isinstance(arguments[0], torch.Tensor):
        assert OURS[name](x, arguments[0].as_subclass(Strict), *arguments[1:]) == name


class Network(nn.Module):
    """Consists of modules that call torch.nn.functional."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0)
        self.parts = nn.Sequential(nn.BatchNorm1d(6), nn.LeakyReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Sigmoid())
        self.head = nn.Linear(6, 3)

    def forward(self, x, target):
        h = self.parts(self.embedding(x))
        reference = nn.functional.linear_cross_entropy(h, self.head.weight, target, linear_bias=self.head.bias)
        return nn.functional.cross_entropy(self.head(h), target) + reference


def test_network_of_torchs_modules(monkeypatch):
    model = Network()
    results = []
    for replaced in (False, True):
        if replaced:
            replace(monkeypatch)
        for precision in (torch.float32, torch.bfloat16):
            torch.manual_seed(0)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                loss = model(torch.randn(4, 6), CLASSES)
            results.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(results[2], results[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[3], results[1], rtol=0.05, atol=0.02)  # bfloat16
