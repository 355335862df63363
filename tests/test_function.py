"""The base class of the Functions: how it dispatches, and that compilers can trace it."""

import pytest
import torch
from torch import Tensor

from torchnotes._C import DIRECT, GRAPH, TRANSFORM, call_mode, dense_float
from torchnotes.autograd.function import Elementwise


class Cube(Elementwise):
    """x^3, with rules written in plain torch operations."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x**2

    @staticmethod
    def tangent(ctx, x_t):
        (x,) = ctx.saved_tensors
        return x_t * 3 * x**2


def test_call_mode():
    plain, wanting = torch.ones(2), torch.ones(2, requires_grad=True)
    assert call_mode() == DIRECT
    assert call_mode(plain, 0.5) == DIRECT
    assert call_mode(0.5, plain, wanting) == GRAPH
    with torch.no_grad():
        assert call_mode(wanting) == DIRECT
    with torch.autograd.forward_ad.dual_level():
        assert call_mode(plain) == TRANSFORM
    modes = []
    torch.vmap(lambda x: modes.append(call_mode(x)) or x)(plain)
    torch.func.grad(lambda x: modes.append(call_mode(x)) or x.sum())(plain)
    torch.func.jvp(lambda x: modes.append(call_mode(x)) or x, (plain,), (plain,))
    assert modes == [TRANSFORM] * 3
    assert call_mode(plain) == DIRECT, "only inside the transform"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_dense_float():
    x = torch.ones(2, 2)
    takes = (x, x.double(), x.half(), x.bfloat16(), x.to("meta"), torch.nn.Parameter(x), x.t(), x.expand(3, 2, 2))
    assert all(map(dense_float, takes))
    leaves = (None, 1.0, "x", [x], x.int(), x.bool(), x.to(torch.complex64), x.to_sparse(), x.to_mkldnn())
    leaves += (torch.nested.nested_tensor([x, x]),)
    leaves += (x.as_subclass(type("Sub", (torch.Tensor,), {})),)
    assert not any(map(dense_float, leaves))


def test_without_a_graph_no_function_runs(monkeypatch):
    def fail(*args):
        raise AssertionError

    monkeypatch.setattr(Cube, "_apply", fail)
    x = torch.ones(3)
    assert torch.equal(Cube.apply(x), x)
    with pytest.raises(AssertionError):
        Cube.apply(x.requires_grad_())


def test_rules_written_in_plain_operations_nest():
    """torch.autograd.Function fails this, because torch 2.13 loses the outer derivative of a jvp rule."""
    x = torch.tensor([0.7, -1.3], dtype=torch.float64)
    for modes in (("f", "f"), ("r", "f"), ("f", "r"), ("f", "f", "f"), ("r", "f", "f")):
        derivatives = []
        for function in (Cube.apply, lambda x: x**3):

            def derivative(x, function=function):
                return function(x).pow(2).sum()

            for mode in modes:
                derivative = (torch.func.jacfwd if mode == "f" else torch.func.jacrev)(derivative)
            derivatives.append(derivative(x))
        torch.testing.assert_close(*derivatives)


def test_a_function_compiles_as_a_full_graph():
    torch._dynamo.reset()
    x = torch.randn(5, requires_grad=True)
    compiled = torch.compile(lambda x: Cube.apply(x) * 2, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    torch.testing.assert_close(y, x**3 * 2)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 6 * x**2)


def test_computes_only_the_gradients_that_are_needed(monkeypatch):
    from torchnotes.ops.activations.sigmoid import SigmoidBackward, SigmoidCurvature

    calls = []
    forward = SigmoidCurvature.forward.__func__
    monkeypatch.setattr(
        SigmoidCurvature, "forward", classmethod(lambda cls, *args: calls.append(1) or forward(cls, *args))
    )
    g, y = torch.rand(3, requires_grad=True), torch.rand(3)
    SigmoidBackward.apply(g, y).sum().backward()
    assert not calls
    SigmoidBackward.apply(g, y.requires_grad_()).sum().backward()
    assert calls
