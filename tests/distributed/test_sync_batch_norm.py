"""Compares batch normalization over the batches of all ranks with torch's on the full batch in one process."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import torchnotes
from torchnotes import functional as F
from torchnotes.ops.activations import ENDINGS
from torchnotes.testing.operations.normalization import NORMALIZATION

RANK, WORLD = dist.get_rank(), dist.get_world_size()
UNEVEN, WITH_EMPTY, EVEN = [5, 2, 3, 1][:WORLD], [4, 0, 3, 0][:WORLD], [3] * WORLD
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def mine(x, sizes):
    return x.split(sizes)[RANK]


def on_all_ranks(x, sizes):
    """Concatenates the parts of all ranks."""
    parts = [None] * WORLD
    dist.all_gather_object(parts, x.detach())
    assert [len(part) for part in parts] == sizes
    return torch.cat(parts)


def added_up(x):
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def problem(sizes, shape=(4, 3, 5), dtype=torch.float64):
    """x, dL/dy and another direction for the full batch, gamma and beta. All ranks have the same."""
    channels, precise = shape[0], torch.promote_types(dtype, torch.float32)
    x = 3 * torch.randn(sum(sizes), *shape, dtype=torch.float64) + 7
    numbers = torch.rand(channels, dtype=precise) + 0.5, torch.randn(channels, dtype=precise)
    return x.to(dtype), torch.randn_like(x).to(dtype), torch.randn_like(x).to(dtype), *numbers


def close(ours, theirs, dtype=torch.float64):
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def over_all_ranks(x, weight=None, bias=None, **options):
    return F.sync_batch_norm(x, None, None, weight, bias, True, **options)


def reference(x, weight=None, bias=None, **options):
    return NORMALIZATION["batch_norm"].reference(x, None, None, weight, bias, True, **options)


def compare(derivatives, sizes, tensors, **options):
    """Compares derivatives(function, *tensors) with those of the full batch, in double precision.

    Results with one dimension are of parameters, whose gradients are added up. Returns those of this rank.
    """
    dtype = tensors[0].dtype
    of_ranks, of_reference = (
        [t.detach().to(kind or t.dtype).clone() for t in tensors] for kind in (None, torch.double)
    )
    of_ranks[:3] = (mine(t, sizes) for t in of_ranks[:3])
    own = derivatives(partial(over_all_ranks, **options), *of_ranks)
    whole = derivatives(partial(reference, **options), *of_reference)
    summands = tensors[0].numel() / tensors[0].shape[1]  # each has a bounded rounding error
    for one, exact in zip(own, whole, strict=True):
        if one.dim() == 1:
            close(added_up(one) / summands**0.5, exact / summands**0.5, dtype)
        else:
            close(on_all_ranks(one, sizes), exact, dtype)
    return own


def first(function, x, g, v, *numbers):
    leaves = [t.requires_grad_() for t in (x, *numbers)]
    y = function(x * 1, *numbers)
    return y, *torch.autograd.grad(y, leaves, g)


def second(function, x, g, v, *numbers):
    """The derivative of sum_r (dL_r/dx_r . v_r) + (dL/dgamma . v_gamma)."""
    leaves = [t.requires_grad_() for t in (x, *numbers, g)]
    dx, dw, _ = torch.autograd.grad(function(x, *numbers), (x, *numbers), g, create_graph=True)
    along = torch.linspace(-1, 1, len(dw), dtype=dw.dtype)
    return torch.autograd.grad((dx * v).sum() + (dw * along).sum(), leaves, materialize_grads=True)


def third(function, x, g, v, *numbers):
    total = (torch.tanh(function(x.requires_grad_())) * g).sum()
    for _ in range(3):
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
        total = (gradient * g).sum()
    return (gradient,)


def forward_mode(function, x, g, v, *numbers):
    return torch.func.jvp(lambda x: function(x, *numbers), (x,), (v,))


def transformed(function, x, g, v, *numbers):
    return (torch.func.grad(lambda x: (torch.sigmoid(function(x)) * g).sum())(x),)


@pytest.mark.parametrize("sizes", [UNEVEN, WITH_EMPTY, EVEN], ids=["uneven", "empty", "even"])
@pytest.mark.parametrize("center_only", [False, True])
@pytest.mark.parametrize("activation", ENDINGS)
@pytest.mark.parametrize("inplace", [False, True])
def test_value_and_gradients_are_those_of_the_full_batch(sizes, center_only, activation, inplace, dtype):
    options = dict(activation=activation, negative_slope=0.1, inplace=inplace, center_only=center_only)
    compare(first, sizes, problem(sizes, dtype=dtype), **options)


@pytest.mark.parametrize("sizes", [UNEVEN, WITH_EMPTY], ids=["uneven", "empty"])
@pytest.mark.parametrize("activation", [None, "tanh", "sigmoid"])
@pytest.mark.parametrize("center_only", [False, True])
def test_second_derivative(sizes, activation, center_only):
    compare(second, sizes, problem(sizes), activation=activation, center_only=center_only)


@pytest.mark.parametrize("derivatives", [third, forward_mode, transformed])
def test_other_derivatives(derivatives):
    compare(derivatives, UNEVEN, problem(UNEVEN), activation="tanh")


@pytest.mark.parametrize(
    ("shape", "format"),
    [
        ((4,), torch.contiguous_format),
        ((4, 6), torch.contiguous_format),
        ((4, 3, 5), torch.channels_last),
        ((4, 2, 3, 2), torch.contiguous_format),
        ((4, 2, 3, 2), torch.channels_last_3d),
    ],
    ids=str,
)
def test_shapes_and_layouts(shape, format):
    *of_batch, weight, bias = problem(UNEVEN, shape)
    tensors = *(t.contiguous(memory_format=format) for t in of_batch), weight, bias
    y, *_ = compare(first, UNEVEN, tensors, activation="relu")
    assert y.is_contiguous(memory_format=format)


def test_large_mean():
    x, _, _, weight, bias = problem(UNEVEN)
    x = x + 1e6 * (1 + torch.arange(len(x), dtype=x.dtype).view(-1, 1, 1, 1) % 3)
    y = on_all_ranks(over_all_ranks(mine(x, UNEVEN), weight, bias), UNEVEN)
    torch.testing.assert_close(y, reference(x, weight, bias), rtol=1e-9, atol=1e-9)


def test_second_derivative_with_a_large_mean():
    x, g, v, weight, bias = problem(UNEVEN, dtype=torch.float32)
    x = x + 1e4

    def of_input(function, x, g, v, *numbers):
        (first,) = torch.autograd.grad(function(x.requires_grad_(), *numbers), x, g, create_graph=True)
        return torch.autograd.grad(first, x, v)[0]

    whole = of_input(reference, *(t.double() for t in (x, g, v, weight, bias)))
    own = of_input(over_all_ranks, *(mine(t, UNEVEN) for t in (x, g, v)), weight, bias)
    assert (on_all_ranks(own, UNEVEN) - whole).norm() <= 1e-6 * whole.norm()


def test_vmap():
    x = torch.randn(2, EVEN[0], 4, 3)
    by_vmap = torch.vmap(partial(over_all_ranks, activation="relu"))(x)
    for x_i, y_i in zip(x, by_vmap, strict=True):
        close(y_i, over_all_ranks(x_i, activation="relu"), torch.float32)


@pytest.mark.parametrize("sizes", [UNEVEN, WITH_EMPTY], ids=["uneven", "empty"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("center_only", [False, True])
def test_running_statistics_are_those_of_the_full_batch(sizes, momentum, center_only):
    whole = torchnotes.nn.BatchNorm2d(4, momentum=momentum, center_only=center_only, dtype=torch.float64)
    theirs = torch.nn.BatchNorm2d(4, momentum=momentum, dtype=torch.float64)
    ours = torchnotes.nn.SyncBatchNorm.convert_sync_batchnorm(whole)
    for _ in range(3):
        x, *_ = problem(sizes)
        ours(mine(x, sizes))
        theirs(x)
    if center_only:
        theirs.running_var.fill_(1)
    for name, buffer in ours.state_dict().items():
        torch.testing.assert_close(buffer, theirs.state_dict()[name], rtol=1e-12, atol=1e-12)
    x = problem(EVEN)[0]
    ours.eval(), theirs.eval()
    if not center_only:
        close(ours(x), theirs(x))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_without_graph_breaks(backend):
    x, g = (mine(t, EVEN) for t in problem(EVEN, dtype=torch.float32)[:2])
    plain, module = (torchnotes.nn.SyncBatchNorm(4, activation="leaky_relu") for _ in range(2))
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for _ in range(2):
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        for function, leaf in zip((compiled, plain), leaves, strict=True):
            function(leaf).backward(g)
        close(leaves[0].grad, leaves[1].grad, torch.float32)
        close(module.weight.grad, plain.weight.grad, torch.float32)
        close(module.running_var, plain.running_var, torch.float32)
    torch._dynamo.reset()


def net(batch_norm, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), batch_norm(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 9, 3)
    ).to(dtype)


@pytest.mark.parametrize("inplace", [False, True])
def test_data_parallel_training_is_that_of_one_process(inplace):
    def ours(channels):
        return torchnotes.nn.BatchNorm2d(channels, inplace=inplace)

    whole, model = net(torch.nn.BatchNorm2d), torchnotes.nn.SyncBatchNorm.convert_sync_batchnorm(net(ours))
    parallel = DistributedDataParallel(model)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (whole, parallel)]
    for _ in range(4):
        x, y = torch.randn(sum(EVEN), 2, 5, 5, dtype=torch.float64), torch.randint(3, (sum(EVEN),))
        for m, optimizer, pair in zip(
            (whole, parallel), optimizers, ((x, y), (mine(x, EVEN), mine(y, EVEN))), strict=True
        ):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(m(pair[0]), pair[1]).backward()
            optimizer.step()
    for a, b in zip(model.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_subgroup_of_ranks():
    alone = [dist.new_group([rank]) for rank in range(WORLD)][RANK]
    pair = dist.new_group([0, 1])
    x = problem(EVEN)[0]
    module = torchnotes.nn.SyncBatchNorm(4, process_group=alone, dtype=torch.float64)
    close(module(mine(x, EVEN)), reference(mine(x, EVEN)))
    module.process_group = pair
    if RANK < 2:
        expected = reference(torch.cat(x.split(EVEN)[:2]))
        close(module(mine(x, EVEN)), expected.split(EVEN[:2])[RANK])
    else:
        with pytest.raises(ValueError, match=f"rank {RANK} is not in the process group"):
            module(mine(x, EVEN))


def test_conversion_keeps_parameters_buffers_and_options():
    options = dict(eps=0.1, momentum=None, activation="leaky_relu", negative_slope=0.2)
    model = torch.nn.ModuleDict(
        {
            "theirs": torch.nn.BatchNorm1d(3).eval(),
            "ours": torchnotes.nn.BatchNorm2d(4, bias=False, **options),
            "other": torch.nn.Linear(2, 2),
        }
    )
    weight = model["theirs"].weight
    assert torchnotes.nn.SyncBatchNorm.convert_sync_batchnorm(model) is model
    assert model["theirs"].weight is weight
    assert not model["theirs"].training
    assert type(model["ours"]) is torchnotes.nn.SyncBatchNorm
    assert {name: getattr(model["ours"], name) for name in options} == options
    assert model["ours"].bias is None
    with pytest.raises(ValueError, match="number of features"):
        torchnotes.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.LazyBatchNorm1d())


def different(rank_0, others):
    return rank_0 if RANK == 0 else others


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        (different(4, 3), {}, "channels: 4 on rank 0, 3 on rank 1"),
        (4, {"eps": different(1e-5, 1e-3)}, "eps: 1e-05 on rank 0, 0.001 on rank 1"),
        (4, {"activation": different("relu", None)}, "activation: relu on rank 0, None on rank 1"),
        (4, {"center_only": different(True, False)}, "center only: True on rank 0, False on rank 1"),
        (4, {"momentum": different(0.1, 0.2)}, "momentum: 0.1 on rank 0, 0.2 on rank 1"),
    ],
    ids=["channels", "eps", "activation", "center_only", "momentum"],
)
def test_disagreements_are_reported_on_every_rank(channels, options, message):
    over_all_ranks(torch.randn(2, 4, 3))
    with pytest.raises(RuntimeError, match=f"sync_batch_norm: the ranks disagree on {message}"):
        over_all_ranks(torch.randn(2, channels, 3), **options)


@pytest.mark.parametrize(
    ("rows", "wrong", "error", "message"),
    [
        (different(1, 0), {}, ValueError, "more than 1 value per channel"),
        (0, {}, ValueError, "more than 1 value per channel"),
        (2, {"process_group": "world"}, TypeError, "process_group must be"),
        (2, {"weight": torch.ones(2)}, RuntimeError, "weight should contain 3 elements not 2"),
        (different(2, 0), {"running_mean": torch.zeros(2)}, RuntimeError, "running_mean should contain 3 elements not"),
        (different(2, 0), {"running_var": torch.zeros(3).requires_grad_()}, RuntimeError, "respect to running_var"),
        (different(2, 0), {"momentum": "x"}, TypeError, "'momentum' must be float, not str"),
    ],
)
def test_nothing_is_overwritten_before_an_error(rows, wrong, error, message):
    x, running = torch.randn(rows, 3), {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    before = x.clone()
    with pytest.raises(error, match=message):
        F.sync_batch_norm(x, **running | wrong, training=True, inplace=True)
    assert torch.equal(x, before)
    assert torch.equal(running["running_mean"], torch.zeros(3))


def test_other_errors():
    with pytest.raises(ValueError, match="at least 2D"):
        over_all_ranks(torch.randn(3))
    y = over_all_ranks(torch.randn(2, 3).requires_grad_() * 1, inplace=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        y.sum().backward(create_graph=True)
