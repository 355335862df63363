"""linear: a layer of the network, with its activation."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as torch_F
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import torchnotes.functional as F
from checks import ACTIVATIONS, TOLERANCE, activate, doubled, op_db, outcome, threads, values
from layouts import LAYOUTS, expanded

KERNELS = ("linear", "linear_backward")
SLOPE = 0.2
LEADING = ((), (1,), (5,), (0,), (2, 3), (2, 0, 3), (2, 3, 1, 2))
inf, nan = float("inf"), float("nan")


def ours(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    return F.linear(x, weight, bias, activation=activation, negative_slope=SLOPE)


def builtin(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    return activate(torch_F.linear(x, weight, bias), activation, SLOPE)


def inputs(
    leading: tuple = (5,), inputs: int = 4, outputs: int = 3, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> list[Tensor]:
    """x, weight, bias, and a gradient of y."""
    sizes = (*leading, inputs), (outputs, inputs), (outputs,), (*leading, outputs)
    return [values(size, dtype, device, scale=1.0) for size in sizes]


def run(function, tensors, grad, activation) -> tuple[Tensor, ...]:
    """The output, and the gradients for x, weight and bias."""
    wanted = [t.detach().requires_grad_() for t in tensors]
    y = function(*wanted, activation=activation)
    return y.detach(), *torch.autograd.grad(y, wanted, grad)


def assert_agrees(tensors, grad, activation) -> None:
    """With float64, but for some roundings of the greatest number, and 1.25 times what the builtin errs."""
    result, theirs = run(ours, tensors, grad, activation), run(builtin, tensors, grad, activation)
    exact = run(builtin, doubled(tensors), grad.double(), activation)
    assert result[0].stride() == theirs[0].stride()
    for mine, other, true in zip(result, theirs, exact, strict=True):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        if true.numel() > 0:
            rtol, atol = TOLERANCE[mine.dtype]
            allowed = atol + rtol * (true.abs() + true.abs().max()) + 1.25 * (other.double() - true).abs()
            assert ((mine.double() - true).abs() <= allowed).all(), (mine.double() - true).abs().max()


# values and layouts


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_value_and_gradients_agree_with_float64(leading, activation, dtype, device):
    *tensors, grad = inputs(leading, dtype=dtype, device=device)
    assert_agrees(tensors, grad, activation)
    assert_agrees(tensors[:2], grad, activation)


@pytest.mark.parametrize(
    "sizes", ((1, 1), (5, 1), (1, 17), (2, 64), (7, 15), (16, 16), (33, 31), (3, 130), (0, 4), (4, 0)), ids=str
)
@pytest.mark.parametrize("rows", (1, 31, 33, 200))
def test_every_width_of_the_vectors(rows, sizes, dtype, device):
    *tensors, grad = inputs((rows,), *sizes, dtype=dtype, device=device)
    for activation in (None, "leaky_relu", "sigmoid"):
        assert_agrees(tensors, grad, activation)


@pytest.mark.parametrize("sizes", ((4100, 33, 40), (130, 257, 200), (300, 300, 300)), ids=str)
@pytest.mark.parametrize("transpose", (False, True))
def test_large_products(transpose, sizes, device):
    """Large enough for the product that is used there, and for columns in several chunks."""
    rows, of_x, of_y = sizes
    *tensors, grad = inputs((rows,), of_x, of_y, torch.float32, device)
    if transpose:
        tensors[:2] = (t.t().contiguous().t() for t in tensors[:2])
    for activation in (None, "tanh"):
        result, theirs = run(ours, tensors, grad, activation), run(builtin, tensors, grad, activation)
        exact = run(builtin, doubled(tensors), grad.double(), activation)
        for mine, other, true in zip(result, theirs, exact, strict=True):
            error = (mine.double() - true).abs().max()
            # Either product adds up in blocks of its own: the greatest of thousands of random errors differ.
            assert error <= 3 * (other.double() - true).abs().max() + 1e-7 * true.abs().max()


def test_many_rows(dtype, device):
    """So many that the bias' gradient is added up in several chunks, and each of them in blocks."""
    *tensors, grad = inputs((4100,), 3, 40, dtype, device)
    for activation in ("leaky_relu", "tanh"):
        assert_agrees(tensors, grad, activation)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("activation", (None, "relu", "sigmoid"))
def test_layouts(activation, layout, dtype, device):
    x, weight, bias, grad = inputs((2, 3, 5), 4, 3, dtype, device)
    for tensors in ((layout(x), weight, bias), (x, layout(weight), layout(bias))):
        assert_agrees(tensors, layout(grad), activation)
    assert_agrees((expanded(x), weight, bias), expanded(grad), activation)
    assert_agrees((x, expanded(weight), bias), grad[..., :1].expand(grad.shape), activation)


def test_a_tied_and_transposed_weight(device):
    x, weight, *_ = inputs(device=device)
    weight.requires_grad_()
    for function in (ours, builtin):
        hidden = function(x, weight, None, "tanh")
        function(hidden, weight.t(), None, "sigmoid").sum().backward()
        if function is ours:
            first, weight.grad = weight.grad, None
    torch.testing.assert_close(first, weight.grad)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("special", (inf, -inf, nan, 1e30, -1e30, -0.0), ids=str)
def test_special_values(special, activation, dtype, device):
    x, weight, bias, grad = inputs((4,), 3, 5, dtype, device)
    for i in range(4):
        tensors = [t.clone() for t in (x, weight, bias, grad)]
        tensors[i].view(-1)[0] = special
        *operands, g = tensors
        results = (run(function, operands, g, activation) for function in (ours, builtin))
        torch.testing.assert_close(*results, equal_nan=True, rtol=1e-5, atol=2 * torch.finfo(dtype).eps)


def test_a_falling_slope(device):
    """With a slope below 0 the output does not tell the sign of what went in."""

    def falling(*tensors, activation):
        return F.linear(*tensors, activation=activation, negative_slope=-0.5)

    def reference(*tensors, activation):
        return torch_F.leaky_relu(torch_F.linear(*tensors), -0.5)

    *tensors, grad = inputs(device=device)
    results = (run(function, tensors, grad, "leaky_relu") for function in (falling, reference))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rounded_to", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("sizes", ((500, 60, 70), (500, 300, 200)), ids=str)
def test_the_error_is_not_above_the_builtins(sizes, activation, rounded_to, device):
    """Nor that of large products, for which there is another library."""
    rows, *features = sizes
    *tensors, grad = inputs((rows,), *features, rounded_to, device)
    result, theirs = run(ours, tensors, grad, activation), run(builtin, tensors, grad, activation)
    exact = run(builtin, doubled(tensors), grad.double(), activation)
    for mine, other, true in zip(result, theirs, exact, strict=True):
        ours_errs, theirs_errs = ((got.double() - true).square().mean().sqrt() for got in (mine, other))
        assert ours_errs <= 1.1 * theirs_errs  # the roundings of some thousand numbers differ by chance


# derivatives


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("leading", ((), (3,), (2, 2)), ids=str)
def test_first_and_second_derivatives(leading, activation):
    *tensors, _ = inputs(leading)
    for operands in (tensors, tensors[:2]):
        operands = [t.requires_grad_() for t in operands]

        def function(*operands):
            return ours(*operands, activation=activation)

        assert gradcheck(function, operands, check_forward_ad=True, check_batched_grad=True,
                         check_batched_forward_grad=True)  # fmt: skip
        assert gradgradcheck(function, operands, check_fwd_over_rev=True, check_rev_over_rev=True,
                             check_batched_grad=True)  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_second_derivative_by_value(activation, dtype, device):
    *tensors, grad = inputs((6,), 5, 4, dtype, device)
    along = [values(tuple(t.shape), dtype, device) for t in tensors]

    def second(function, tensors, grad, along):
        *operands, g = (t.detach().requires_grad_() for t in (*tensors, grad))
        first = torch.autograd.grad(function(*operands, activation=activation), operands, g, create_graph=True)
        return torch.autograd.grad(first, (g, *operands), along, allow_unused=True, materialize_grads=True)

    result, theirs = (second(function, tensors, grad, along) for function in (ours, builtin))
    exact = second(builtin, doubled(tensors), grad.double(), doubled(along))
    for mine, other, true in zip(result, theirs, exact, strict=True):
        rtol, atol = TOLERANCE[dtype]
        allowed = atol + rtol * (true.abs() + 2 * true.abs().max()) + 1.25 * (other.double() - true).abs()
        # 2: of three products each is rounded to the dtype before they are added up, by us and by torch
        assert ((mine.double() - true).abs() <= allowed).all(), (mine.double() - true).abs().max()


@pytest.mark.parametrize("activation", ("leaky_relu", "sigmoid", "tanh"))
def test_third_derivative(activation):
    def third(function):
        x, weight, bias, _ = inputs((2,), 3, 2)
        generator = torch.Generator().manual_seed(1)
        operands = [
            torch.randn(t.shape, dtype=t.dtype, generator=generator).requires_grad_() for t in (x, weight, bias)
        ]
        total = function(*operands, activation=activation).square().sum()
        for _ in range(2):
            gradients = torch.autograd.grad(total, operands, create_graph=True)
            total = sum(g.pow(2).sum() for g in gradients)
        return torch.autograd.grad(total, operands)

    torch.testing.assert_close(third(ours), third(builtin))


@pytest.mark.parametrize("order", list(itertools.product((torch.func.jacfwd, torch.func.jacrev), repeat=2)))
def test_every_composition_of_forward_and_reverse_mode(order):
    *tensors, _ = inputs((2,), 3, 2)
    for activation in (None, "sigmoid", "leaky_relu"):
        outer, inner = order

        def jacobians(function, activation=activation, outer=outer, inner=inner):
            of_all = (0, 1, 2)
            return outer(inner(partial(function, activation=activation), of_all), of_all)(*tensors)

        torch.testing.assert_close(jacobians(ours), jacobians(builtin))


def test_dual_numbers(device):
    *tensors, _ = inputs(device=device)
    for activation in ACTIVATIONS:
        for moving in itertools.product((True, False), repeat=3):
            tangents = [torch.ones_like(t) if moves else None for t, moves in zip(tensors, moving, strict=True)]
            found = []
            for function in (ours, builtin):
                with forward_ad.dual_level():
                    pairs = zip(tensors, tangents, strict=True)
                    operands = [t if along is None else forward_ad.make_dual(t, along) for t, along in pairs]
                    found.append(forward_ad.unpack_dual(function(*operands, activation=activation)).tangent)
            torch.testing.assert_close(*found)


class _Calls(TorchDispatchMode):
    """The names of the native operators that are called, with their arguments."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, tuple]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append((str(function), args))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", (None, "sigmoid"))
def test_no_gradient_is_computed_that_nobody_wants(activation, device):
    for subset in itertools.product((True, False), repeat=3):
        x, weight, bias, grad = inputs(device=device)
        operands = [t.requires_grad_(wanted) for t, wanted in zip((x, weight, bias), subset, strict=True)]
        y = ours(*operands, activation=activation)
        assert y.requires_grad == any(subset)
        if not any(subset):
            continue
        wanted = [t for t in operands if t.requires_grad]
        expected = torch.autograd.grad(builtin(*operands, activation=activation), wanted, grad)
        with _Calls() as calls:
            gradients = torch.autograd.grad(y, wanted, grad, retain_graph=True)
        torch.testing.assert_close(gradients, expected)
        (backward,) = (args for name, args in calls.seen if "linear_backward" in name)
        assert tuple(backward[-1]) == subset
        with _Calls() as calls:
            torch.autograd.grad(y, wanted[-1:], grad)
        (backward,) = (args for name, args in calls.seen if "linear_backward" in name)
        assert sum(backward[-1]) == 1
        second = torch.autograd.grad(ours(*operands, activation=activation), wanted, grad, create_graph=True)
        torch.testing.assert_close(second, expected)
        theirs = torch.autograd.grad(builtin(*operands, activation=activation), wanted, grad, create_graph=True)
        for one, other in zip(second, theirs, strict=True):
            if other.requires_grad:
                found = (
                    torch.autograd.grad(
                        first.sum(), wanted, retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                    for first in (one, other)
                )
                torch.testing.assert_close(*found)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("leading", ((5,), (2, 3)), ids=str)
def test_the_input_and_the_output_are_all_that_is_kept(leading, activation, device):
    for subset in itertools.product((True, False), repeat=3):
        kept: list[Tensor] = []

        def pack(t: Tensor, kept: list = kept) -> Tensor:
            kept.append(t)
            return t

        *operands, _ = inputs(leading, device=device)
        for t, wanted in zip(operands, subset, strict=True):
            t.requires_grad_(wanted)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = ours(*operands, activation=activation)
        x, weight, _ = operands
        allowed = [t for t, keeps in ((weight, subset[0]), (x, subset[1]), (y, activation is not None and any(subset)))
                   if keeps]  # fmt: skip
        assert sorted(t.data_ptr() for t in kept) == sorted(t.data_ptr() for t in allowed)


def test_hooks_and_checkpointing(device):
    x, weight, bias, _ = inputs(device=device)
    weight.requires_grad_()

    def model(x):
        return ours(x, weight, bias, "tanh").sum()

    (expected,) = torch.autograd.grad(model(x), weight)
    (found,) = torch.autograd.grad(torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False), weight)
    assert torch.equal(found, expected)
    seen = []
    y = ours(x, weight, bias, "sigmoid")
    y.register_hook(seen.append)
    y.sum().backward()
    assert len(seen) == 1


def test_a_changed_output_in_backward_raises(device):
    x, weight, bias, _ = inputs(device=device)
    y = ours(x, weight.requires_grad_(), bias, "sigmoid")
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# transforms


@pytest.mark.parametrize("activation", (None, "leaky_relu", "tanh"))
@pytest.mark.parametrize(
    "in_dims",
    [d for d in itertools.product((None, 0, 1), (None, 0, 2), (None, 0, 1)) if any(i is not None for i in d)],
    ids=str,
)
def test_vmap(in_dims, activation):
    tensors = [
        t.unsqueeze(0).repeat(6, *[1] * t.dim()) if d is not None else t
        for t, d in zip(inputs()[:3], in_dims, strict=True)
    ]
    tensors = [
        t if d is None else (t + torch.randn_like(t)).movedim(0, d) for t, d in zip(tensors, in_dims, strict=True)
    ]

    def gradients(function, *operands):
        of_all = torch.func.grad(lambda *t: function(*t, activation=activation).square().sum(), (0, 1, 2))
        return of_all(*operands)

    for call in (lambda f, *t: f(*t, activation=activation), gradients):
        found = (torch.vmap(lambda *t, f=f, call=call: call(f, *t), in_dims)(*tensors) for f in (ours, builtin))
        torch.testing.assert_close(*found)


def test_gradients_per_sample():
    x, weight, bias, grad = inputs((7,), 4, 3)
    for activation in ACTIVATIONS:

        def loss(weight, bias, x, g, activation=activation):
            return (ours(x, weight, bias, activation) * g).sum()

        found = torch.vmap(torch.func.grad(loss, (0, 1)), (None, None, 0, 0))(weight, bias, x, grad)
        expected = [run(builtin, (x[i], weight, bias), grad[i], activation)[2:] for i in range(7)]
        torch.testing.assert_close(list(found), [torch.stack(one) for one in zip(*expected, strict=True)])


def test_nested_transforms():
    x, weight, bias, _ = inputs((4,), 3, 2)

    def penalty(function, x):
        return torch.func.grad(lambda x: function(x, weight, bias, "sigmoid").sum())(x).square().sum()

    found = (torch.vmap(torch.func.hessian(lambda x, f=f: penalty(f, x)))(x) for f in (ours, builtin))
    torch.testing.assert_close(*found)


# compilers


@pytest.mark.parametrize("backend", ("aot_eager", "inductor"))
@pytest.mark.parametrize("activation", (None, "leaky_relu", "sigmoid"))
def test_compile(activation, backend):
    torch._dynamo.reset()

    def model(function, x, weight, bias, activation):
        return function(x * 2, weight, bias, activation=activation) + 1

    compiled = torch.compile(partial(model, ours), fullgraph=True, dynamic=True, backend=backend)
    for leading in ((4,), (7,), (2, 3)):
        *tensors, grad = inputs(leading)
        found = run(compiled, tensors, grad, activation)
        torch.testing.assert_close(found, run(partial(model, builtin), tensors, grad, activation))
    torch._dynamo.reset()


def test_compiled_transforms():
    torch._dynamo.reset()
    x, weight, bias, _ = inputs()
    transforms = (
        lambda f: torch.vmap(lambda x: f(x, weight, bias, "tanh")),
        lambda f: torch.vmap(torch.func.grad(lambda x: f(x, weight, bias, "tanh").sum())),
        lambda f: torch.func.jacfwd(lambda x: f(x, weight, bias, "tanh")),
    )
    for transform in transforms:
        compiled = torch.compile(transform(ours), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), transform(builtin)(x))
    torch._dynamo.reset()


def test_export():
    class Model(torch.nn.Module):
        def forward(self, x, weight, bias):
            return ours(x, weight, bias, "sigmoid")

    *tensors, _ = inputs()
    exported = torch.export.export(Model(), tuple(tensors), dynamic_shapes=({0: torch.export.Dim.DYNAMIC}, None, None))
    targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert all(target.startswith("aten.") for target in targets)
    torch.testing.assert_close(exported.module()(*tensors), ours(*tensors, "sigmoid"))


@pytest.mark.parametrize("activation", (0, 3))
def test_opcheck(activation, dtype, device):
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    x, weight, bias, grad = inputs(dtype=dtype, device=device)
    forward, backward = (getattr(torch.ops.torchnotes, name).default for name in KERNELS)
    for b in (bias, None):
        torch.library.opcheck(forward, (x, weight, b, activation, SLOPE), test_utils=tests)
    torch.library.opcheck(forward, (x.t().contiguous().t(), weight, bias, activation, SLOPE), test_utils=tests)
    y = forward(x, weight, bias, activation, SLOPE)
    arguments = grad, x, weight, y, activation, SLOPE
    torch.library.opcheck(backward, (*arguments, [True, True, True]), test_utils=tests)
    for wanted in itertools.product((True, False), repeat=3):
        real = backward(*arguments, wanted)
        with torch._subclasses.FakeTensorMode() as mode:
            abstract = backward(*(mode.from_tensor(t) if isinstance(t, Tensor) else t for t in arguments), wanted)
        assert [None if t is None else t.shape for t in real] == [None if t is None else t.shape for t in abstract]


def test_fake_and_meta_tensors(dtype):
    for leading in LEADING:
        *tensors, _ = inputs(leading, dtype=dtype)
        real = ours(*tensors, activation="relu")
        meta = ours(*(t.to("meta") for t in tensors), activation="relu")
        with torch._subclasses.FakeTensorMode() as mode:
            fake = ours(*map(mode.from_tensor, tensors), activation="relu")
        for abstract in (meta, fake):
            assert (abstract.shape, abstract.dtype, abstract.stride()) == (real.shape, real.dtype, real.stride())


def test_operations_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    *tensors, _ = inputs((2, 3), 4, 5)
    counts = []
    for function in (ours, builtin):
        operands = [t.detach().requires_grad_() for t in tensors]
        with FlopCounterMode(display=False) as counter:
            function(*operands, activation="relu").sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 3 * 2 * 6 * 4 * 5


# modes of running


@pytest.mark.parametrize("activation", (None, "leaky_relu", "sigmoid"))
def test_autocast_is_torchs(activation, device):
    def under_autocast(function, *operands):
        with torch.autocast(device, dtype=torch.bfloat16):
            y = function(*operands, activation=activation)
        return y, *torch.autograd.grad(y.float().sum(), operands)

    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        operands = [t.requires_grad_() for t in inputs(dtype=dtype, device=device)[:3]]
        found, expected = (under_autocast(function, *operands) for function in (ours, builtin))
        torch.testing.assert_close(found, expected)


def test_no_grad_and_inference_mode(device):
    x, weight, bias, _ = inputs(device=device)
    expected = ours(x, weight.requires_grad_(), bias, "sigmoid")
    assert expected.requires_grad
    with torch.no_grad():
        assert not ours(x, weight, bias, "sigmoid").requires_grad
    with torch.inference_mode():
        y = ours(x, weight, bias, "sigmoid")
        assert y.is_inference()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("sizes", ((3000, 40), (70, 1030)), ids=str)
def test_the_bits_do_not_depend_on_the_threads(sizes, dtype):
    """But for ATen's products, which with one input are none, or not asked for."""
    rows, outputs = sizes
    x, weight, bias, grad = inputs((rows,), 1, outputs, dtype)
    for activation in (None, "relu", "sigmoid"):
        found = []
        for n in (1, 2, 3, 5):
            with threads(n):
                y = ours(x, weight, bias.requires_grad_(), activation)
                found.append((y, *torch.autograd.grad(y, bias, grad)))
        for one, other in itertools.pairwise(found):
            assert all(map(torch.equal, one, other))


# torch's own samples, unusual tensors and errors


def test_opinfo_samples(dtype, device):
    (info,) = (op for op in op_db() if op.name == "nn.functional.linear")
    for sample in info.sample_inputs(device, dtype, requires_grad=True):
        for activation in ACTIVATIONS:
            operands = [t for t in (sample.input, *sample.args, *sample.kwargs.values()) if isinstance(t, Tensor)]
            y, theirs = (f(sample.input, *sample.args, **sample.kwargs, activation=activation) for f in (ours, builtin))
            tolerance = {} if dtype in (torch.float32, torch.float64) else dict(rtol=2e-2, atol=2e-2)  # sums of 16 bits
            torch.testing.assert_close(y, theirs, **tolerance)
            grad = torch.randn_like(theirs)
            gradients = (torch.autograd.grad(one, operands, grad) for one in (y, theirs))
            torch.testing.assert_close(*gradients, **tolerance)


def test_every_dtype_does_what_it_does_in_torch(device):
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.complex64, torch.complex128, torch.float8_e4m3fn):
        tensors = [torch.ones(size, device=device).to(dtype) for size in ((4, 3), (2, 3), (2,))]
        for activation in ACTIVATIONS:
            try:
                expected = builtin(*tensors, activation=activation)
            except Exception:
                assert outcome(ours, *tensors, activation) == outcome(builtin, *tensors, activation)
            else:
                torch.testing.assert_close(ours(*tensors, activation=activation), expected)


def test_subclasses_and_distributed_tensors(tmp_path):
    from torch import distributed
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    class Subclass(torch.Tensor):
        pass

    x, weight, bias, _ = inputs()
    expected = builtin(x, weight, bias, "tanh")
    assert type(ours(x.as_subclass(Subclass), weight, bias, "tanh")) is Subclass
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        mesh = init_device_mesh("cpu", (1,))
        operands = [
            distribute_tensor(t, mesh, [place])
            for t, place in ((x, Shard(0)), (weight, Replicate()), (bias, Replicate()))
        ]
        operands[1].requires_grad_()
        y = ours(*operands, "tanh")
        torch.testing.assert_close(y.full_tensor(), expected)
        y.sum().backward()
        assert operands[1].grad.full_tensor().shape == weight.shape
    finally:
        distributed.destroy_process_group()


BAD = (
    ((3, 4), (5, 6), None),
    ((3, 4), (5, 4), (6,)),
    ((3, 4), (5, 4), (5, 1)),
    ((2, 3, 4), (5, 6), (5,)),
    ((4,), (5, 6), (5,)),
    ((3, 4), (2, 5, 4), None),
    ((), (5, 4), None),
    ((3, 4), (), None),
)


@pytest.mark.parametrize("sizes", BAD, ids=str)
def test_shapes_that_do_not_match_raise_what_torch_raises(sizes):
    tensors = [None if size is None else torch.ones(size) for size in sizes]
    for activation in (None, "relu"):
        assert outcome(ours, *tensors, activation) == outcome(torch_F.linear, *tensors)
    if sizes[0] and sizes[1] and sizes[0][-1] != sizes[1][-1] and len(sizes[0]) == 2:
        _, message = outcome(ours, *tensors)
        assert "(3x4 and 6x5)" in message


def test_unusual_shapes_do_what_they_do_in_torch():
    for sizes in (((3, 4), (4,), None), ((3, 4), (5, 4), (1,)), ((4,), (4,), None), ((2, 3, 4), (4,), None)):
        tensors = [None if size is None else torch.randn(size) for size in sizes]
        torch.testing.assert_close(ours(*tensors, activation="tanh"), builtin(*tensors, activation="tanh"))


def test_out_is_written_as_in_torch():
    x, weight, bias, _ = inputs(dtype=torch.float32)
    for activation in ACTIVATIONS:
        out = torch.empty(0)
        assert F.linear(x, weight, bias, activation=activation, out=out) is out
        torch.testing.assert_close(out, F.linear(x, weight, bias, activation=activation))
    assert outcome(F.linear, x.requires_grad_(), weight, out=out) == outcome(torch_F.linear, x, weight, out=out)


def test_bad_arguments_raise_what_torch_raises():
    x, weight, bias, _ = inputs(dtype=torch.float32)
    for i in range(3):
        for bad in ("x", [1.0, 2.0], 1.0, object(), *(() if i == 2 else (None,))):
            arguments = [x, weight, bias]
            arguments[i] = bad
            assert outcome(ours, *arguments)[0] is outcome(builtin, *arguments)[0] is TypeError
        for dtype in (torch.float64, torch.bfloat16, torch.int64):
            arguments = [x, weight, bias]
            arguments[i] = arguments[i].to(dtype)
            assert outcome(ours, *arguments, "relu") == outcome(builtin, *arguments, "relu")
        if i != 1:  # torch computes with a weight that is on no device
            arguments = [x, weight, bias]
            arguments[i] = arguments[i].to("meta")
            assert outcome(ours, *arguments) == outcome(builtin, *arguments)
    assert outcome(F.linear, x)[0] is TypeError
    assert outcome(F.linear, x, weight, nonsense=1)[0] is TypeError
    for bad in ("gelu", 1, torch.relu):
        with pytest.raises(ValueError, match=r"activation must be one of None, 'relu'.*Got: "):
            F.linear(x, weight, activation=bad)
    for bad in ("x", None, [0.1], 1j):
        with pytest.raises(TypeError):
            F.linear(x, weight, activation="leaky_relu", negative_slope=bad)


def test_kernels_refuse_what_does_not_match(device):
    x, weight, bias, grad = inputs(dtype=torch.float32, device=device)
    forward, backward = (getattr(torch.ops.torchnotes, name).default for name in KERNELS)
    y = forward(x, weight, bias, 3, SLOPE)
    all_wanted = [True, True, True]
    for arguments, message in (
        ((x, weight[:, :2], bias, 3, SLOPE), "multiplied"),
        ((x[0], weight, bias, 3, SLOPE), "multiplied"),
        ((x, weight.double(), bias, 3, SLOPE), "dtype"),
        ((x, weight, bias[:2], 3, SLOPE), "bias of size"),
        ((x, weight, bias.double(), 3, SLOPE), "dtype"),
    ):
        with pytest.raises(RuntimeError, match=message):
            forward(*arguments)
    with pytest.raises(ValueError, match="expected the number of an activation, got 5"):
        forward(x, weight, bias, 5, SLOPE)
    for arguments, message in (
        ((grad[:2], x, weight, y, 3, SLOPE, all_wanted), "size"),
        ((grad.double(), x, weight, y, 3, SLOPE, all_wanted), "dtype"),
        ((grad, x[:2], weight, y, 3, SLOPE, all_wanted), "multiplied"),
        ((grad, x, weight[:2], y, 3, SLOPE, all_wanted), "multiplied"),
        ((grad, None, weight, y, 3, SLOPE, all_wanted), "requires the input"),
        ((grad, x, None, y, 3, SLOPE, all_wanted), "requires the weight"),
        ((grad, x, weight, None, 3, SLOPE, all_wanted), "requires the output"),
    ):
        with pytest.raises(RuntimeError, match=message):
            backward(*arguments)
