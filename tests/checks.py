"""The checks that every operation passes. tests/ops/test_X.py describes an operation as an OpCase, and inherits them.

The references are independent of the code under test: a float64 composite of plain torch operations with its own
autograd, the torch builtin, and torch's own OpInfo samples.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from layouts import LAYOUTS, channels_last, expanded, transposed

# Relative and absolute tolerance against float64 on ordinary values: a few roundings. The sharp comparison is the
# accuracy check, which counts ulps on millions of values and allows no more than the builtin's.
TOLERANCE = {
    torch.float64: (1e-13, 1e-15),
    torch.float32: (6e-7, 1e-7),
    torch.float16: (2e-3, 1e-6),
    torch.bfloat16: (1.6e-2, 1e-6),
}
SHAPES = ((), (0,), (1,), (5,), (3, 0, 2), (7, 33), (2, 3, 5, 4), (2, 1, 3, 1, 9))
SPECIAL = (0.0, -0.0, 1e-30, -1e-30, 1e-42, -1e-42, 1.0, -1.0, 9.5, -9.5, 17.0, -17.0, 88.0, -88.0, 89.0, -89.0, 104.0)
SPECIAL += (-104.0, 710.0, -710.0, 1e4, -1e4, 3e38, -3e38, float("inf"), float("-inf"), float("nan"))


@dataclass(frozen=True)
class OpCase:
    """An elementwise operation of one tensor, as data."""

    op: Callable[..., Tensor]
    builtin: Callable[..., Tensor]
    reference: Callable[..., Tensor]  # composite, run in float64
    opinfo: str  # its name in torch's op_db
    kernels: dict[str, int]  # the native operators behind it, and how many tensors each takes
    keywords: tuple[dict[str, Any], ...] = ({},)  # a sweep over every keyword
    kink: float | None = None  # where the derivative jumps: numeric differentiation keeps away from it
    inplace: bool = False
    numbers: tuple = (0.2,)  # for what the native operators take after their tensors

    def with_keywords(self, function: Callable[..., Tensor], keywords: dict) -> Callable[[Tensor], Tensor]:
        return lambda x: function(x, **keywords)


def values(shape: tuple, dtype: torch.dtype, device: str, scale: float = 2.0) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) * scale).to(device, dtype)


def assert_near(
    actual: Tensor, exact: Tensor, dtype: torch.dtype, theirs: Tensor | None = None, least_rtol: float = 0
) -> None:
    """actual is exact but for a few roundings, and but for 1.25 times what the builtin's result `theirs` is off."""
    rtol, atol = TOLERANCE[dtype]
    rtol = max(rtol, least_rtol)
    assert actual.dtype == dtype
    assert actual.shape == exact.shape
    actual, exact = actual.double(), exact.to(dtype).double()
    allowed = atol + rtol * exact.abs()
    if theirs is not None:
        allowed = allowed + 1.25 * (theirs.double() - exact).abs()
    same = (actual == exact) | (actual.isnan() & exact.isnan())
    wrong = ~(same | ((actual - exact).abs() <= allowed))
    assert not wrong.any(), (
        f"got {actual[wrong][:4]}, expected {exact[wrong][:4]}, allowed an error of {allowed[wrong][:4]}"
    )


def run(function: Callable, x: Tensor, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The output and the gradient for x, of which x's own layout is kept."""
    x = x.detach().requires_grad_()
    y = function(x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y) if grad is None else grad)
    return y.detach(), dx


ACTIVATIONS = (None, "relu", "leaky_relu", "sigmoid", "tanh")  # with which other operations end


def activate(z: Tensor, activation: str | None, slope: float) -> Tensor:
    """By torch."""
    if activation is None:
        return z
    return torch.nn.functional.leaky_relu(z, slope) if activation == "leaky_relu" else getattr(torch, activation)(z)


def doubled(tensors: Iterable) -> list:
    return [None if t is None else t.detach().double() for t in tensors]


def ulps(actual: Tensor, reference: Tensor) -> Tensor:
    """The error in units of the last place of the exact result. Denormal results count in denormal ulps."""
    rounded = reference.to(actual.dtype)
    ulp = torch.nextafter(rounded.abs(), torch.full_like(rounded, float("inf"))).double() - rounded.abs().double()
    return (actual.double() - reference).abs() / ulp


def accuracy_inputs(dtype: torch.dtype) -> Tensor:
    ranges = [(torch.rand(200_000, dtype=torch.float64) * 2 - 1) * r for r in (1e-3, 0.1, 1, 3, 10, 30, 90)]
    special = torch.tensor((1e-30, -1e-30, 88.0, -88.0, 1e4, -1e4), dtype=torch.float64)
    return torch.cat((*ranges, special)).to(dtype)


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def outcome(function: Callable, *args: Any, **kwargs: Any) -> tuple[type, str]:
    """The type of the exception that a call raises, and its first line."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 # which one is the question
        function(*args, **kwargs)
    return type(caught.value), str(caught.value).split("\n")[0]


def assert_does_the_same(op: Callable, builtin: Callable, x: Tensor) -> None:
    """The same values, or the same error."""
    try:
        expected = builtin(x)
    except Exception:
        assert outcome(op, x) == outcome(builtin, x)
    else:
        torch.testing.assert_close(op(x), expected)


class OpChecks:
    case: ClassVar[OpCase]
    builtin_takes_dual_numbers: ClassVar[bool] = True
    sample_tolerance: ClassVar[dict[torch.dtype, dict[str, float]]] = {}

    def functions(self, keywords: dict) -> tuple[Callable, Callable, Callable]:
        case = self.case
        return tuple(case.with_keywords(f, keywords) for f in (case.op, case.builtin, case.reference))

    def smooth_values(self, shape: tuple, device: str) -> Tensor:
        x = values(shape, torch.float64, device)
        if self.case.kink is not None:
            x = x + 0.1 * torch.where(x > self.case.kink, 1.0, -1.0)
        return x

    # values and layouts

    def assert_agrees(self, keywords: dict, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Output and gradient are those of float64, the output laid out as the builtin's. Ours and its gradient."""
        op, builtin, reference = self.functions(keywords)
        y, dx = run(op, x, grad)
        y64, dx64 = run(reference, x.double(), grad.double())
        y_builtin, dx_builtin = run(builtin, x, grad)
        assert_near(y, y64, x.dtype)
        assert_near(dx, dx64, x.dtype, dx_builtin)
        assert y.stride() == y_builtin.stride()
        return dx, dx_builtin

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_forward_and_backward_agree_with_float64(self, shape, dtype, device):
        for keywords in self.case.keywords:
            self.assert_agrees(keywords, values(shape, dtype, device), values(shape, dtype, device))

    def strides_of_gradient(self, dx_builtin: Tensor, grad: Tensor) -> tuple[int, ...]:
        """The gradient lies as what was kept: our output, perhaps the builtin's input."""
        return dx_builtin.stride()

    @pytest.mark.parametrize("layout_of_grad", (*LAYOUTS, expanded))
    @pytest.mark.parametrize("layout", (*LAYOUTS, expanded))
    def test_layouts(self, layout, layout_of_grad, dtype, device):
        for shape in ((2, 3, 5, 4), (6, 35)):
            x, grad = layout(values(shape, dtype, device)), layout_of_grad(values(shape, dtype, device))
            dx, dx_builtin = self.assert_agrees(self.case.keywords[0], x, grad)
            if layout is not expanded:
                assert dx.stride() == self.strides_of_gradient(dx_builtin, grad)

    def test_every_length_up_to_two_vectors_and_a_tail(self, dtype, device):
        for n in (*range(1, 130), 1023, 32_771):
            x, grad = values((n + 1,), dtype, device)[1:], values((n,), dtype, device)
            self.assert_agrees(self.case.keywords[-1], x, grad)

    @pytest.mark.parametrize("n", (1, len(SPECIAL), 200))
    def test_special_values(self, n, dtype, device):
        points = torch.tensor(SPECIAL, dtype=torch.float64).to(device, dtype)
        for keywords in self.case.keywords:
            op, builtin, reference = self.functions(keywords)
            for shift in range(len(SPECIAL)) if n == 1 else (0,):
                x = points.roll(shift).repeat(n // len(SPECIAL) + 1)[:n]
                y, dx = run(op, x)
                y_builtin, dx_builtin = run(builtin, x)
                assert_near(y, reference(x.double()).to(dtype), dtype)
                assert_near(dx, dx_builtin, dtype)
                assert torch.equal(y.signbit() & (y == 0), y_builtin.signbit() & (y_builtin == 0)), "the sign of zero"
                for special_grad in (0.0, float("inf"), float("-inf"), float("nan"), 3e38, 1e-42):
                    grad = torch.tensor(special_grad, dtype=torch.float64).to(device, dtype).expand_as(x)
                    same = (y == y_builtin) | y.isnan()  # an infinite gradient tells 0 from the least denormal
                    ours, theirs = (run(f, x, grad)[1][same] for f in (op, builtin))
                    assert_near(ours, theirs, dtype, least_rtol=1e-7)  # 1 - y^2 cancels in the builtin at y near 1

    def test_constant_input_and_large_mean(self, dtype, device):
        for x in (torch.full((1000,), 0.7, dtype=dtype, device=device), values((1000,), dtype, device) + 1000):
            self.assert_agrees(self.case.keywords[0], x, torch.ones_like(x))

    def test_error_is_not_above_the_builtins(self, dtype, device):
        for keywords in self.case.keywords:
            op, builtin, reference = self.functions(keywords)
            x = accuracy_inputs(dtype)
            if dtype == torch.float64:  # there is no wider type at hand: the same bits but for the last
                torch.testing.assert_close(op(x.to(device)), builtin(x.to(device)), rtol=4.5e-16, atol=0)
                continue
            exact = reference(x.double())
            ours, theirs = (ulps(f(x.to(device)).cpu(), exact) for f in (op, builtin))
            assert ours.max() <= theirs.max()
            assert ours.mean() <= theirs.mean() * 1.001  # 0.1 %: two correctly rounded results tie within chance
            assert (ours[-6:] <= theirs[-6:] + 0.5).all(), "at the extremes"

    @hypothesis.settings(
        deadline=None,
        max_examples=60,
        derandomize=True,
        suppress_health_check=[hypothesis.HealthCheck.differing_executors],  # one check, inherited by each operation
    )
    @hypothesis.given(data=st.data())
    def test_any_view_of_any_shape(self, data):
        """Any shape, order of dimensions and step; the output's layout is the builtin's."""
        shape = data.draw(st.lists(st.integers(0, 7), max_size=5))
        order = data.draw(st.permutations(range(len(shape))))
        steps = [data.draw(st.integers(1, 3)) for _ in shape]
        keep = [data.draw(st.sampled_from((None, 0))) for _ in shape]  # 0: one element, expanded again
        x = values(tuple(shape), torch.float32, "cpu")
        x = x[tuple(slice(None, None, step) for step in steps)]
        for dim, first in enumerate(keep):
            if first == 0 and x.shape[dim]:
                x = x.narrow(dim, 0, 1).expand(*x.shape[:dim], x.shape[dim], *x.shape[dim + 1 :])
        x = x.permute(order)
        op, builtin, _ = self.functions(self.case.keywords[0])
        (y, dx), (y_builtin, dx_builtin) = run(op, x), run(builtin, x)
        torch.testing.assert_close(y, y_builtin)
        torch.testing.assert_close(dx, dx_builtin)
        assert y.stride() == y_builtin.stride()

    # differentiation

    def test_gradcheck(self, device):
        for keywords in self.case.keywords:
            x = self.smooth_values((3, 5), device).requires_grad_()
            op, _, _ = self.functions(keywords)
            options = dict(check_batched_grad=True)
            assert gradcheck(op, x, check_forward_ad=True, check_batched_forward_grad=True, **options)
            assert gradgradcheck(op, x, check_fwd_over_rev=True, check_rev_over_rev=True, **options)

    def test_third_derivative(self, device):
        def second(x):
            (first,) = torch.autograd.grad(op(x).pow(3).sum(), x, create_graph=True)
            return torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)[0]

        for keywords in self.case.keywords:
            op, _, _ = self.functions(keywords)
            x = self.smooth_values((2, 3), device).requires_grad_()
            assert gradcheck(second, x)
            assert gradgradcheck(second, x)

    def test_second_derivative_by_value(self, dtype, device):
        for keywords in self.case.keywords:
            op, _, reference = self.functions(keywords)
            for layout in (*LAYOUTS, expanded):
                x, grad, tangent = (layout(values((2, 3, 5, 4), dtype, device)) for _ in range(3))
                result = _double_backward(op, x, grad, tangent)
                expected = _double_backward(reference, x.double(), grad.double(), tangent.double())
                for ours, exact in zip(result, expected, strict=True):
                    rtol, atol = TOLERANCE[dtype]  # three kernels in a row round three times
                    torch.testing.assert_close(ours.double(), exact, rtol=4 * rtol, atol=8 * rtol + atol)

    def test_every_subset_of_requires_grad(self, device):
        op, builtin, reference = self.functions(self.case.keywords[0])
        for wanted in itertools.product((False, True), repeat=2):
            results = []
            for function in (op, reference, builtin):
                torch.manual_seed(1)
                x = self.smooth_values((4, 5), device).requires_grad_()
                grad = values((4, 5), torch.float64, device).requires_grad_(wanted[0])
                (dx,) = torch.autograd.grad(function(x), x, grad, create_graph=True)
                sought = [t for t, want in zip((grad, x), wanted, strict=True) if want]
                if sought and dx.requires_grad:
                    results.append(torch.autograd.grad(dx.pow(2).sum(), sought, allow_unused=True))
                else:  # nothing asked for, or a second derivative that is 0
                    results.append([None] * len(sought))
            for ours, exact, theirs in zip(*results, strict=True):
                assert (ours is None) == (theirs is None)
                zero = torch.zeros(4, 5, dtype=torch.float64, device=device)
                torch.testing.assert_close(zero if ours is None else ours, zero if exact is None else exact)

    @pytest.mark.parametrize("order", (1, 2, 3))
    def test_every_composition_of_forward_and_reverse_mode(self, order, device):
        x = self.smooth_values((3,), device)
        for keywords in self.case.keywords:
            op, builtin, _ = self.functions(keywords)
            for modes in itertools.product((torch.func.jacfwd, torch.func.jacrev), repeat=order):
                results = []
                for function in (op, builtin):

                    def derivative(x, function=function):
                        return function(x).pow(3).sum()

                    for mode in modes:
                        derivative = mode(derivative)
                    results.append(derivative(x))
                torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)

    def test_forward_mode_with_dual_numbers(self, device):
        x = self.smooth_values((4, 3), device).requires_grad_()
        tangent = values((4, 3), torch.float64, device)
        op, builtin, reference = self.functions(self.case.keywords[0])
        results = []
        for function in (op, builtin if self.builtin_takes_dual_numbers else reference):
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x, tangent)
                out = torch.autograd.forward_ad.unpack_dual(function(dual))
                (mixed,) = torch.autograd.grad(out.tangent.pow(2).sum(), x)
            results.append((out.primal, out.tangent, mixed))
        torch.testing.assert_close(*results)

    def test_vmap(self, device):
        for keywords in self.case.keywords:
            op, builtin, _ = self.functions(keywords)
            x = values((4, 3, 5), torch.float64, device)
            for in_dim in (0, 1, 2, -1):
                torch.testing.assert_close(torch.vmap(op, in_dim)(x), torch.vmap(builtin, in_dim)(x))
            torch.testing.assert_close(torch.vmap(torch.vmap(op, 1), 0)(x), torch.vmap(torch.vmap(builtin, 1), 0)(x))

            def loss(scale, row, function):
                return (function(row) * scale).pow(2).sum()

            per_sample = [
                torch.vmap(torch.func.grad(loss), (None, 0, None))(x.new_tensor(0.7), x, f) for f in (op, builtin)
            ]
            torch.testing.assert_close(*per_sample)
            # the gradient is batched and the input is not
            outs = [torch.func.vjp(f, x) for f in (op, builtin)]
            cotangents = values((6, 4, 3, 5), torch.float64, device)
            torch.testing.assert_close(*(torch.vmap(pull)(cotangents) for _, pull in outs))

    def test_hooks_and_checkpointing(self, device):
        op, _, _ = self.functions(self.case.keywords[0])
        x = values((10,), torch.float64, device).requires_grad_()

        def block(x):
            return op(x * 2).pow(2)

        plain = torch.autograd.grad(block(x).sum(), x)[0]
        out = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        assert torch.equal(torch.autograd.grad(out.sum(), x)[0], plain)
        with torch.autograd.graph.save_on_cpu():
            assert torch.equal(torch.autograd.grad(block(x).sum(), x)[0], plain)

    def test_keeps_one_tensor_and_no_memory_of_its_own(self, device):
        for keywords in self.case.keywords:
            for inplace in (False, True) if self.case.inplace else (False,):
                kept: list[Tensor] = []

                def pack(t: Tensor, kept: list = kept) -> Tensor:
                    kept.append(t)
                    return t

                x = values((10,), torch.float32, device).requires_grad_() * 1
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                    y = self.case.op(x, **keywords, **({"inplace": True} if inplace else {}))
                if inplace and keywords.get("negative_slope", 0) < 0:
                    continue  # there the input is kept, by way of a copy: it is about to be overwritten
                assert len(kept) == 1
                assert kept[0].data_ptr() in (x.data_ptr(), y.data_ptr())

    def test_using_a_changed_output_in_backward_raises(self, device):
        op, _, _ = self.functions(self.case.keywords[0])
        x = values((10,), torch.float32, device).requires_grad_()
        y = op(x)
        with torch.no_grad():
            y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()

    # modes of running

    def test_the_bits_do_not_depend_on_the_threads(self, dtype):
        x, grad = values((300_007,), dtype, "cpu"), values((300_007,), dtype, "cpu")
        for keywords in self.case.keywords:
            op, _, _ = self.functions(keywords)
            with threads(1):
                y, dx = run(op, x, grad)
            for n in (2, 3, 5):
                with threads(n):
                    again = run(op, x, grad)
                assert torch.equal(y, again[0])
                assert torch.equal(dx, again[1])

    def test_the_bits_do_not_depend_on_the_place_in_memory(self, dtype):
        x, grad = values((300_007,), dtype, "cpu"), values((300_007,), dtype, "cpu")
        for keywords in self.case.keywords:
            op, _, _ = self.functions(keywords)
            (y, dx), (part, part_dx) = run(op, x, grad), run(op, x[1:], grad[1:])
            assert torch.equal(y[1:], part)
            assert torch.equal(dx[1:], part_dx)

    def test_concurrent_calls(self, device):
        op, _, _ = self.functions(self.case.keywords[0])
        inputs = [values((50_000,), torch.float32, device) for _ in range(4)]
        expected = [run(op, x) for x in inputs]
        results: list = [None] * 4

        def work(i: int) -> None:
            results[i] = [run(op, inputs[i]) for _ in range(5)]

        workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for (y, dx), runs in zip(expected, results, strict=True):
            for again in runs:
                assert torch.equal(y, again[0])
                assert torch.equal(dx, again[1])

    def test_no_grad_and_inference_mode(self, device):
        op, _, _ = self.functions(self.case.keywords[0])
        x = values((10,), torch.float32, device).requires_grad_()
        expected = op(x)
        assert expected.requires_grad
        assert not op(x.detach()).requires_grad
        with torch.no_grad():
            assert not op(x).requires_grad
        with torch.inference_mode():
            y = op(x)
            assert y.is_inference()
        assert torch.equal(y, expected)
        with pytest.raises(RuntimeError, match=r"[Ii]nference"):
            op(y * torch.ones((), requires_grad=True)).sum().backward()

    def test_autocast_changes_what_it_changes_for_the_builtin(self, device):
        op, builtin, _ = self.functions(self.case.keywords[0])
        for dtype in (torch.float32, torch.bfloat16):
            x = values((10,), dtype, device)
            with torch.autocast(device, dtype=torch.bfloat16):
                assert op(x).dtype == builtin(x).dtype
                assert op(x @ x.view(10, 1)).dtype == builtin(x @ x.view(10, 1)).dtype

    def test_fake_and_meta_tensors(self, dtype):
        op, _, _ = self.functions(self.case.keywords[0])
        for layout in (*LAYOUTS[:-1], expanded):
            x = layout(values((2, 3, 5, 4), dtype, "cpu"))
            real = op(x)
            meta = op(torch.empty_strided(x.shape, x.stride(), dtype=dtype, device="meta"))
            with torch._subclasses.FakeTensorMode() as mode:
                fake = op(mode.from_tensor(x))
            for abstract in (meta, fake):
                assert (abstract.shape, abstract.dtype) == (real.shape, real.dtype)
                assert abstract.stride() == real.stride()

    @pytest.mark.parametrize("backend", ("aot_eager", "inductor"))
    def test_compile(self, backend):
        for keywords in self.case.keywords[:2]:
            torch._dynamo.reset()
            op, _, reference = self.functions(keywords)
            compiled = torch.compile(lambda x, op=op: op(x * 2 + 1) * 3, fullgraph=True, dynamic=True, backend=backend)
            for shape in ((33,), (5, 7), (128,)):
                x = values(shape, torch.float64, "cpu")
                y, dx = run(compiled, x)
                y64, dx64 = run(lambda x, f=reference: f(x * 2 + 1) * 3, x)
                torch.testing.assert_close(y, y64)
                torch.testing.assert_close(dx, dx64)
        torch._dynamo.reset()

    def test_compiled_special_values(self, dtype):
        points = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
        for keywords in self.case.keywords:
            torch._dynamo.reset()
            op, builtin, _ = self.functions(keywords)
            compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
            for grad in (1.0, -0.3, float("inf"), float("nan")):
                ours, theirs = (run(f, points, torch.full_like(points, grad)) for f in (compiled, builtin))
                torch.testing.assert_close(ours, theirs, equal_nan=True)
        torch._dynamo.reset()

    @pytest.mark.skipif(
        torch.__version__ < (2, 12), reason="this compiler says that it exports; what it compiles is the builtin"
    )
    def test_compiled_backward_keeps_no_mask(self):
        """Bools are what Inductor's CPU code stores and loads slowest."""
        from functorch.compile import make_boxed_func
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch.partitioners import min_cut_rematerialization_partition
        from torch._inductor.decomposition import select_decomp_table

        kept: list[torch.dtype] = []

        def compiler(graph: torch.fx.GraphModule, inputs: Any) -> Callable:
            (output,) = (node for node in graph.graph.nodes if node.op == "output")
            values = (node.meta["val"] for node in output.args[0] if node is not None)
            kept.extend(value.dtype for value in values if isinstance(value, Tensor))
            return make_boxed_func(graph.forward)

        backend = aot_autograd(
            fw_compiler=compiler,
            bw_compiler=compiler,
            partition_fn=min_cut_rematerialization_partition,
            decompositions=select_decomp_table(),
        )
        for keywords in self.case.keywords:
            if keywords.get("negative_slope", 0) < 0:
                continue  # the builtin
            torch._dynamo.reset()
            op, _, _ = self.functions(keywords)
            run(torch.compile(lambda x, op=op: op(x * 2 + 1) * 3, backend=backend), values((9,), torch.float32, "cpu"))
        assert kept
        assert torch.bool not in kept
        torch._dynamo.reset()

    def test_compiled_transforms(self):
        torch._dynamo.reset()
        op, builtin, _ = self.functions(self.case.keywords[0])
        x = values((3, 4), torch.float64, "cpu")
        for transform in (torch.vmap, lambda f: torch.func.grad(lambda x: f(x).pow(2).sum()), torch.func.jacfwd):
            compiled = torch.compile(transform(op), fullgraph=True, backend="aot_eager")
            torch.testing.assert_close(compiled(x), transform(builtin)(x))
        torch._dynamo.reset()

    def test_compiled_and_exported_graphs_hold_what_the_compiler_can_fuse(self):
        class Module(torch.nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return op(x)

        for keywords in self.case.keywords[:2]:
            op, _, _ = self.functions(keywords)
            x = values((3, 4), torch.float32, "cpu")
            exported = torch.export.export(Module(), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
            targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
            assert targets
            assert all(target.startswith("aten.") for target in targets)
            torch.testing.assert_close(exported.module()(x), op(x))

    def test_make_fx_without_gradients_traces_our_operator(self):
        from torch.fx.experimental.proxy_tensor import make_fx

        op, _, _ = self.functions(self.case.keywords[0])
        with torch.no_grad():
            graph = make_fx(op)(values((3,), torch.float32, "cpu")).graph
        assert any("torchnotes" in str(node.target) for node in graph.nodes)

    # torch's own samples and the registration

    def test_opinfo_samples(self, device):
        infos = [op for op in op_db() if op.name == self.case.opinfo]
        assert infos
        samples = [(info, dtype) for info in infos for dtype in info.supported_dtypes(device)]
        for info, dtype in sorted(samples, key=str):
            if dtype.is_complex and info.variant_test_name == "with_dtype":
                continue  # torch warns of what these do
            differentiable = dtype in info.supported_backward_dtypes(device)
            for sample in info.sample_inputs(device, dtype, requires_grad=differentiable):
                args, kwargs = (sample.input, *sample.args), sample.kwargs
                ours, theirs = self.case.op(*args, **kwargs), self.builtin_of_sample(*args, **kwargs)
                tolerance = self.sample_tolerance.get(theirs.dtype, {})
                torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)
                if differentiable:
                    grad = torch.randn_like(theirs)
                    gradients = [torch.autograd.grad(y, sample.input, grad) for y in (ours, theirs)]
                    torch.testing.assert_close(*gradients, **tolerance)

    def builtin_of_sample(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.case.builtin(*args, **kwargs)

    def test_every_dtype_does_what_it_does_in_torch(self, device):
        for dtype in (torch.bool, torch.uint8, torch.int64, torch.complex64, torch.complex128, torch.float8_e4m3fn):
            x = torch.ones(4, device=device).to(dtype)
            for keywords in self.case.keywords[:2]:
                op, builtin, _ = self.functions(keywords)
                assert_does_the_same(op, builtin, x)

    def test_unusual_tensors_do_what_they_do_in_torch(self):
        class Subclass(torch.Tensor):
            pass

        op, builtin, _ = self.functions(self.case.keywords[0])
        x = values((4, 6), torch.float32, "cpu")
        assert type(op(x.as_subclass(Subclass))) is Subclass
        nested = torch.nested.nested_tensor([x[0], x[1, :2]], layout=torch.jagged)
        assert_does_the_same(lambda x: op(x).values(), lambda x: builtin(x).values(), nested)
        parameter = torch.nn.Parameter(x)
        torch.testing.assert_close(op(parameter), builtin(x))

    def test_opcheck(self, dtype, device):
        tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
        for name, count in self.case.kernels.items():
            kernel = getattr(torch.ops.torchnotes, name).default
            numbers = self.case.numbers if len(kernel._schema.arguments) > count else ()
            for layout in (torch.clone, transposed, channels_last, expanded):
                if kernel._schema.is_mutable and layout is expanded:
                    continue  # an overlapping tensor is refused: test_inplace
                tensors = [layout(values((2, 3, 4, 5), dtype, device)) for _ in range(count)]
                torch.library.opcheck(kernel, (*tensors, *numbers), test_utils=tests)

    def test_kernels_refuse_operands_that_do_not_match(self, device):
        for name, count in self.case.kernels.items():
            if count == 1:
                continue
            kernel = getattr(torch.ops.torchnotes, name).default
            numbers = self.case.numbers if len(kernel._schema.arguments) > count else ()
            x = values((3, 4), torch.float32, device)
            for bad, message in ((x[:2], "size"), (x.double(), "dtype")):
                with pytest.raises(RuntimeError, match=message):
                    kernel(*[x] * (count - 1), bad, *numbers)

    # errors

    def test_bad_arguments_raise_what_torch_raises(self):
        x = values((3,), torch.float32, "cpu")
        for bad in (None, "x", [1.0, 2.0], 1.0, object()):
            assert outcome(self.case.op, bad) == outcome(self.case.builtin, bad)
        assert outcome(self.case.op)[0] is outcome(self.case.builtin)[0] is TypeError
        assert outcome(self.case.op, x, nonsense=1)[0] is TypeError
        for keyword in {keyword for keywords in self.case.keywords for keyword in keywords}:
            for bad in ("x", None, [0.1], x, 1j):
                kept = x.clone()
                assert outcome(self.case.op, x, **{keyword: bad}) == outcome(self.case.builtin, x, **{keyword: bad})
                inplace = {keyword: bad, "inplace": True}
                assert outcome(self.case.op, x, **inplace) == outcome(self.case.builtin, x, **inplace)
                assert torch.equal(x, kept), "nothing is written"


def _double_backward(function: Callable, x: Tensor, grad: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    x, grad = x.detach().requires_grad_(), grad.detach().requires_grad_()
    (dx,) = torch.autograd.grad(function(x), x, grad, create_graph=True)
    return torch.autograd.grad(dx, (grad, x), tangent, materialize_grads=True)


def op_db() -> list:
    from torch.testing._internal.common_methods_invocations import op_db

    return op_db
