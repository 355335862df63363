"""linear with its optional activation."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as torch_F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import torchnotes.functional as F
from checks import ACTIVATIONS, activated, outcome, values
from generic import checked
from torchnotes.testing.operations.linear import LINEAR
from torchnotes.testing.values import check_error

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


# values and layouts


def transposed(maker):
    return lambda shape: maker(shape).detach().t().contiguous().t().requires_grad_()


@pytest.mark.parametrize("size", ((500, 300), (4100, 33), (130, 257), (300, 300)), ids=str)
def test_error_of_large_products_is_no_larger_than_torchs(size, dtype, device):
    """These use another library, the product of large sizes, and several chunks of columns."""
    layouts = {name: transposed(LINEAR["linear"].arguments[name]) for name in ("input", "weight")}
    options = (*LINEAR["linear"].options, layouts, {"activation": "tanh", **layouts})
    check_error(dataclasses.replace(LINEAR["linear"], many=size, options=options), dtype, device)


def test_a_tied_and_transposed_weight(device):
    x, weight, *_ = inputs(device=device)
    weight.requires_grad_()
    gradients = []
    for function in (ours, builtin):
        hidden = function(x, weight, None, "tanh")
        gradients.append(torch.autograd.grad(function(hidden, weight.t(), None, "sigmoid").sum(), weight))
    torch.testing.assert_close(*gradients)


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
def test_the_kernel_computes_only_the_gradients_that_are_needed(activation, device):
    """The generic checks compare these gradients with the reference."""
    for subset in itertools.product((True, False), repeat=3):
        if not any(subset):
            continue
        x, weight, bias, grad = inputs(device=device)
        operands = [t.requires_grad_(wanted) for t, wanted in zip((x, weight, bias), subset, strict=True)]
        y = ours(*operands, activation=activation)
        wanted = [t for t in operands if t.requires_grad]
        for some in (wanted, wanted[-1:]):
            with _Calls() as calls:
                torch.autograd.grad(y, some, grad, retain_graph=True)
            (backward,) = (args for name, args in calls.seen if "linear_backward" in name)
            assert backward[-1] == [any(t is each for each in some) for t in operands]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("leading", ((5,), (2, 3)), ids=str)
def test_saves_only_what_the_wanted_gradients_need(leading, activation, device):
    for subset in itertools.product((True, False), repeat=3):
        saved: list[Tensor] = []
        x, weight, bias, _ = inputs(leading, device=device)
        operands = [t.requires_grad_(wanted) for t, wanted in zip((x, weight, bias), subset, strict=True)]
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            y = ours(*operands, activation=activation)
        needed = (weight, subset[0]), (x, subset[1]), (y, activation is not None and any(subset))
        assert sorted(t.data_ptr() for t in saved) == sorted(t.data_ptr() for t, needs in needed if needs)


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


def test_distributed_tensors(process_group):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    x, weight, bias, _ = inputs()
    expected = builtin(x, weight, bias, "tanh")
    mesh = init_device_mesh("cpu", (1,))
    operands = [
        distribute_tensor(t, mesh, [place]) for t, place in ((x, Shard(0)), (weight, Replicate()), (bias, Replicate()))
    ]
    operands[1].requires_grad_()
    y = ours(*operands, "tanh")
    torch.testing.assert_close(y.full_tensor(), expected)
    y.sum().backward()
    assert operands[1].grad.full_tensor().shape == weight.shape


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
    for i, dtype in itertools.product(range(3), (torch.float64, torch.bfloat16, torch.int64)):
        arguments = inputs(dtype=torch.float32)[:3]
        arguments[i] = arguments[i].to(dtype)
        assert outcome(ours, *arguments, "relu") == outcome(builtin, *arguments, "relu")
    x, weight, *_ = inputs(dtype=torch.float32)
    assert outcome(F.linear, x)[0] is TypeError
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
    with pytest.raises(ValueError, match="expected the number of an activation, got 6"):
        forward(x, weight, bias, 6, SLOPE)
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
