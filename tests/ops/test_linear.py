"""linear with its optional activation."""

import itertools

import pytest
import torch
import torch.nn.functional as torch_F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import torchnotes.functional as F
from checks import ACTIVATIONS, TOLERANCE, activated, doubled, outcome, values
from generic import checked
from torchnotes.testing.operations.linear import LINEAR

KERNELS = ("linear", "linear_backward")
SLOPE = 0.2
inf, nan = float("inf"), float("nan")


@checked(LINEAR["linear"])
def test_generic(check):
    check()


def ours(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    return F.linear(x, weight, bias, activation=activation, negative_slope=SLOPE)


def builtin(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    return activated(torch_F.linear(x, weight, bias), activation, SLOPE)


def inputs(
    leading: tuple = (5,), inputs: int = 4, outputs: int = 3, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> list[Tensor]:
    """x, weight, bias and the gradient of y."""
    sizes = (*leading, inputs), (outputs, inputs), (outputs,), (*leading, outputs)
    return [values(size, dtype, device, scale=1.0) for size in sizes]


def run(function, tensors, grad, activation) -> tuple[Tensor, ...]:
    """The output and the gradients of x, weight and bias."""
    wanted = [t.detach().requires_grad_() for t in tensors]
    y = function(*wanted, activation=activation)
    return y.detach(), *torch.autograd.grad(y, wanted, grad)


def assert_agrees(tensors, grad, activation) -> None:
    """Compares with float64. Allows a few roundings of the largest value, and 1.25 times torch's error."""
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


@pytest.mark.parametrize("sizes", ((4100, 33, 40), (130, 257, 200), (300, 300, 300)), ids=str)
@pytest.mark.parametrize("transpose", (False, True))
def test_large_products(transpose, sizes, device):
    """Large enough for the matrix product of large sizes and for several chunks of columns."""
    rows, of_x, of_y = sizes
    *tensors, grad = inputs((rows,), of_x, of_y, torch.float32, device)
    if transpose:
        tensors[:2] = (t.t().contiguous().t() for t in tensors[:2])
    for activation in (None, "tanh"):
        result, theirs = run(ours, tensors, grad, activation), run(builtin, tensors, grad, activation)
        exact = run(builtin, doubled(tensors), grad.double(), activation)
        for mine, other, true in zip(result, theirs, exact, strict=True):
            error = (mine.double() - true).abs().max()
            # Both products add in different blocks, so that the largest of thousands of random errors differ.
            assert error <= 3 * (other.double() - true).abs().max() + 1e-7 * true.abs().max()


def test_many_rows(dtype, device):
    """Enough rows that the bias gradient is summed in several chunks, and each of these in blocks."""
    *tensors, grad = inputs((4100,), 3, 40, dtype, device)
    for activation in ("leaky_relu", "tanh"):
        assert_agrees(tensors, grad, activation)


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


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rounded_to", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("sizes", ((500, 60, 70), (500, 300, 200)), ids=str)
def test_error_is_no_larger_than_torchs(sizes, activation, rounded_to, device):
    """Large products use another library."""
    rows, *features = sizes
    *tensors, grad = inputs((rows,), *features, rounded_to, device)
    result, theirs = run(ours, tensors, grad, activation), run(builtin, tensors, grad, activation)
    exact = run(builtin, doubled(tensors), grad.double(), activation)
    for mine, other, true in zip(result, theirs, exact, strict=True):
        ours_errs, theirs_errs = ((got.double() - true).square().mean().sqrt() for got in (mine, other))
        assert ours_errs <= 1.1 * theirs_errs  # the errors of a few thousand roundings vary randomly


# derivatives


class _Calls(TorchDispatchMode):
    """Records the native operators that are called, with their arguments."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, tuple]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append((str(function), args))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", (None, "sigmoid"))
def test_computes_only_the_gradients_that_are_needed(activation, device):
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
def test_saves_only_the_input_and_the_output(leading, activation, device):
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


# unusual tensors and errors


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
def test_mismatched_shapes_raise_torchs_errors(sizes):
    tensors = [None if size is None else torch.ones(size) for size in sizes]
    for activation in (None, "relu"):
        assert outcome(ours, *tensors, activation) == outcome(torch_F.linear, *tensors)
    if sizes[0] and sizes[1] and sizes[0][-1] != sizes[1][-1] and len(sizes[0]) == 2:
        _, message = outcome(ours, *tensors)
        assert "(3x4 and 6x5)" in message


def test_unusual_shapes_match_torch():
    for sizes in (((3, 4), (4,), None), ((3, 4), (5, 4), (1,)), ((4,), (4,), None), ((2, 3, 4), (4,), None)):
        tensors = [None if size is None else torch.randn(size) for size in sizes]
        torch.testing.assert_close(ours(*tensors, activation="tanh"), builtin(*tensors, activation="tanh"))


def test_out_matches_torch():
    x, weight, bias, _ = inputs(dtype=torch.float32)
    for activation in ACTIVATIONS:
        out = torch.empty(0)
        assert F.linear(x, weight, bias, activation=activation, out=out) is out
        torch.testing.assert_close(out, F.linear(x, weight, bias, activation=activation))
    assert outcome(F.linear, x.requires_grad_(), weight, out=out) == outcome(torch_F.linear, x, weight, out=out)


def test_bad_arguments_raise_torchs_errors():
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
        if i != 1:  # torch accepts a weight on the meta device
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


def test_kernels_reject_mismatched_arguments(device):
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
