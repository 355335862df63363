"""Tests of all elementwise activations that the generic checks do not cover."""

import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as torch_F

from checks import outcome, refused_in_place, values
from torchnotes import functional as F
from torchnotes.ops.activations import BY_NUMBER
from torchnotes.testing import check
from torchnotes.testing.layouts import LAYOUTS
from torchnotes.testing.operation import Operation, described
from torchnotes.testing.operations.activations import ACTIVATIONS

# The others have a file of their own, with their mathematics.
OTHERS = [name for name in ACTIVATIONS if not Path(__file__).with_name(f"test_{name}.py").exists()]
RECTIFIERS = [
    pytest.param(operation, options, id=f"{name} {described(options)}")
    for name, operation in ACTIVATIONS.items()
    if name in ("relu", "leaky_relu")
    for options in operation.options
    if not options.get("inplace")
]


if OTHERS:

    @pytest.mark.parametrize("name", OTHERS)
    def test_generic(name, device):
        check(ACTIVATIONS[name], device=device)


@pytest.mark.kernels
@pytest.mark.parametrize("name", ACTIVATIONS)
@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
@hypothesis.given(data=st.data())
def test_any_view_of_any_shape(name, data):
    """Any shape, order of dimensions and step. The output has the layout of torch's."""
    shape = data.draw(st.lists(st.integers(0, 7), max_size=5))
    order = data.draw(st.permutations(range(len(shape))))
    steps = [data.draw(st.integers(1, 3)) for _ in shape]
    expands = [data.draw(st.booleans()) for _ in shape]
    x = values(tuple(shape), torch.float32, "cpu")
    x = x[tuple(slice(None, None, step) for step in steps)]
    for dim, size in enumerate(x.shape):
        if expands[dim] and size:
            x = x.narrow(dim, 0, 1).expand(*x.shape[:dim], size, *x.shape[dim + 1 :])
    operation, x = ACTIVATIONS[name], x.permute(order).requires_grad_()
    ours, theirs = (operation.results(f, {"input": x}) for f in (operation.function, operation.builtin))
    torch.testing.assert_close(ours, theirs)
    assert ours["output"].stride() == theirs["output"].stride()


@pytest.mark.parametrize("name", ("sigmoid", "tanh"))
def test_derivatives_at_the_extremes(name):
    """The first vanishes at both infinities. The second has a factor of 0 at 0, so that it does not overflow."""
    operation = ACTIVATIONS[name]
    x = torch.tensor([-1e4, -800.0, 800.0, 1e4, torch.inf, -torch.inf], dtype=torch.float64, requires_grad=True)
    assert not operation.results(operation.function, {"input": x})["gradient of input"].any()
    x, g = torch.tensor([0.0, 1e-20, 1.0], requires_grad=True), torch.full((3,), 1e38)
    (first,) = torch.autograd.grad(operation.function(x), x, g, create_graph=True)
    (second,) = torch.autograd.grad(first, x, torch.tensor([10.0, 10.0, 1.0]))
    assert second.isfinite().all()


def test_operations_end_unfused_with_an_activation_that_kernels_lack(monkeypatch):
    table = tuple(info._replace(backward=None) for info in BY_NUMBER)
    for module in ("torchnotes.ops.linear", "torchnotes.ops.normalization._shared"):
        monkeypatch.setattr(sys.modules[module], "BY_NUMBER", table)
    x, weight = (torch.randn(5, 5, requires_grad=True) for _ in range(2))
    statistics = None, None, None, None, True
    pairs = (
        (F.linear(x, weight, activation="tanh"), torch_F.linear(x, weight)),
        (F.batch_norm(x, *statistics, activation="tanh"), torch_F.batch_norm(x, *statistics)),
    )
    for y, z in pairs:
        assert y.grad_fn.name() == "TanhBackward"
        torch.testing.assert_close(y, z.tanh())


# in place


@pytest.mark.kernels
@pytest.mark.parametrize(("operation", "options"), RECTIFIERS)
def test_in_place_writes_to_views_and_bumps_the_version(operation: Operation, options, dtype, device):
    for layout in LAYOUTS:
        x = layout(values((2, 3, 5, 4), dtype, device))
        expected, version = operation.function(x, **options), x._version
        assert operation.function(x, **options, inplace=True) is x
        assert torch.equal(x, expected)
        assert x._version > version
        if options.get("negative_slope", 0) < 0:
            continue  # torch rejects their backward pass
        grad = values((2, 3, 5, 4), dtype, device)
        for select in (lambda t: t, lambda t: t[:, 1:]):
            results = []
            for function in (operation.function, operation.builtin):
                torch.manual_seed(0)
                leaf = values((2, 3, 5, 4), dtype, device).requires_grad_()
                inner = layout(leaf * 1)
                assert function(select(inner), **options, inplace=True).data_ptr() == select(inner).data_ptr()
                results.append((inner.detach(), *torch.autograd.grad(inner, leaf, grad)))
            torch.testing.assert_close(*results)


@pytest.mark.parametrize(("operation", "options"), RECTIFIERS)
def test_in_place_raises_where_torch_does(operation: Operation, options, device):
    for make in refused_in_place(torch.float32, device):
        torch.manual_seed(2)
        x = make()
        kept = x.detach().clone()
        expected = outcome(operation.builtin, make(), **options, inplace=True)
        assert outcome(operation.function, x, **options, inplace=True)[0] is expected[0], expected
        assert torch.equal(x.detach(), kept), "something was written"


# compiled


@pytest.mark.parametrize(("operation", "options"), RECTIFIERS)
def test_compiled_special_values(operation: Operation, options, dtype):
    """The compiled backward pass compares the bits of the output, whose layout depends on the dtype."""
    sample = operation.sample({**options, **operation.special[0]}, (27,), dtype)
    torch._dynamo.reset()
    compiled = torch.compile(operation.function, fullgraph=True, backend="aot_eager")
    for grad in (1.0, -0.3, float("inf"), float("nan")):
        g = torch.full_like(sample["input"].detach(), grad)
        ours, theirs = (operation.results(f, sample, g) for f in (compiled, operation.builtin))
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    torch._dynamo.reset()


@pytest.mark.skipif(torch.__version__ < (2, 12), reason="older compilers claim to export, and compile torch's function")
def test_compiled_backward_saves_no_mask():
    """Inductor, which partitions and decomposes graphs like this backend, stores and loads bools slowly on the CPU."""
    cases = [(operation.function, options) for operation in ACTIVATIONS.values() for options in operation.options]
    cases = [(f, o) for f, o in cases if not o.get("inplace") and o.get("negative_slope", 0) >= 0]
    torch._dynamo.reset()
    backend, saved = "aot_eager_decomp_partition", []
    compiled = torch.compile(lambda x: [f(x * 2 + 1, **options) * 3 for f, options in cases], backend=backend)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        compiled(torch.randn(9, requires_grad=True))
    assert saved
    assert torch.bool not in {t.dtype for t in saved}
    torch._dynamo.reset()
