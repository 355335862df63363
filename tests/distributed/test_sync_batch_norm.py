"""Compares batch normalization over the batches of all ranks with torch's on the full batch in one process."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import torchnotes
from torchnotes import functional as F
from torchnotes.ops.activations import ENDINGS
from torchnotes.testing.operations.linear import activated

RANK, WORLD = dist.get_rank(), dist.get_world_size()
UNEVEN, WITH_EMPTY, EVEN = [5, 2, 3, 1][:WORLD], [4, 0, 3, 0][:WORLD], [3] * WORLD
SLOPE = 0.1
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
    """x and dL/dy of the full batch, gamma and beta. All ranks have the same."""
    channels, precise = shape[0], torch.promote_types(dtype, torch.float32)
    x = 3 * torch.randn(sum(sizes), *shape, dtype=torch.float64) + 7
    numbers = torch.rand(channels, dtype=precise) + 0.5, torch.randn(channels, dtype=precise)
    return x.to(dtype), torch.randn_like(x).to(dtype), *numbers


def reference(x, weight, bias, activation, center_only):
    """Computes with torch."""
    if center_only:
        z = x - x.mean([0, *range(2, x.dim())], keepdim=True)
        of_channels = (-1, *[1] * (x.dim() - 2))
        z = z * weight.view(of_channels) + bias.view(of_channels)
    else:
        z = torch.nn.functional.batch_norm(x, None, None, weight, bias, True, 0.1, 1e-5)
    return activated(z, activation, SLOPE)


def leaves(*tensors, dtype=None):
    return [x.detach().to(dtype or x.dtype).clone().requires_grad_() for x in tensors]


def close(ours, theirs, dtype):
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("sizes", [UNEVEN, WITH_EMPTY, EVEN], ids=["uneven", "empty", "even"])
@pytest.mark.parametrize("center_only", [False, True])
@pytest.mark.parametrize("activation", ENDINGS)
@pytest.mark.parametrize("inplace", [False, True])
def test_value_and_gradients_are_those_of_the_full_batch(sizes, center_only, activation, inplace, dtype):
    x, g, weight, bias = problem(sizes, dtype=dtype)
    exact = leaves(x, weight, bias, dtype=torch.float64)
    expected = reference(*exact, activation, center_only)
    expected.backward(g.double())
    own_x, own_weight, own_bias = leaves(mine(x, sizes), weight, bias)
    options = dict(activation=activation, negative_slope=SLOPE, inplace=inplace, center_only=center_only)
    y = F.sync_batch_norm(own_x * 1, None, None, own_weight, own_bias, True, **options)
    y.backward(mine(g, sizes))
    close(on_all_ranks(y, sizes), expected, dtype)
    close(on_all_ranks(own_x.grad, sizes), exact[0].grad, dtype)
    of_one = x.shape[1] / x.numel()  # each summand has a bounded rounding error
    for own, whole in zip((own_weight, own_bias), exact[1:], strict=True):
        close(added_up(own.grad) * of_one**0.5, whole.grad * of_one**0.5, dtype)


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
    x, g, weight, bias = problem(UNEVEN, shape)
    x, g = (t.contiguous(memory_format=format) for t in (x, g))
    exact = leaves(x, weight, bias)
    reference(*exact, "relu", False).backward(g)
    own = leaves(mine(x, UNEVEN), weight, bias)
    y = F.sync_batch_norm(own[0], None, None, *own[1:], True, activation="relu")
    assert y.is_contiguous(memory_format=format)
    y.backward(mine(g, UNEVEN))
    close(on_all_ranks(own[0].grad, UNEVEN), exact[0].grad, torch.float64)
    close(added_up(own[1].grad), exact[1].grad, torch.float64)


def test_large_mean():
    x, _, weight, bias = problem(UNEVEN)
    x = x + 1e6 * (1 + torch.arange(len(x), dtype=x.dtype).view(-1, 1, 1, 1) % 3)
    expected = reference(x, weight, bias, None, False)
    y = F.sync_batch_norm(mine(x, UNEVEN), None, None, weight, bias, True)
    torch.testing.assert_close(on_all_ranks(y, UNEVEN), expected, rtol=1e-9, atol=1e-9)


def test_second_derivative_with_a_large_mean():
    x, g, weight, bias = problem(UNEVEN, dtype=torch.float32)
    v = torch.randn_like(x)

    def second(function, x, g, v):
        (first,) = torch.autograd.grad(function(x), x, g, create_graph=True)
        return torch.autograd.grad(first, x, v)[0]

    (x,) = leaves(x + 1e4)
    (own,) = leaves(mine(x, UNEVEN))
    numbers = weight.double(), bias.double()
    whole = second(lambda x: reference(x, *numbers, None, False), x.double(), g.double(), v.double())
    parts = own, mine(g, UNEVEN), mine(v, UNEVEN)
    ours = second(lambda x: F.sync_batch_norm(x, None, None, weight, bias, True), *parts)
    error = on_all_ranks(ours, UNEVEN) - whole
    assert error.norm() <= 1e-6 * whole.norm()


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
        close(ours(x), theirs(x), torch.float64)


@pytest.mark.parametrize("sizes", [UNEVEN, WITH_EMPTY], ids=["uneven", "empty"])
@pytest.mark.parametrize("activation", [None, "tanh", "sigmoid"])
@pytest.mark.parametrize("center_only", [False, True])
def test_second_derivative(sizes, activation, center_only):
    """The derivative of sum_r (dL_r/dx_r . v_r) + (dL/dgamma . v_gamma)."""
    x, g, weight, bias = problem(sizes)
    v = torch.randn_like(x)
    numbers = weight, bias
    v_weight = torch.randn(4, dtype=torch.float64)

    def second(function, x, g, v, *numbers):
        everything = leaves(x, *numbers, g)
        *inputs, dy = everything
        dx, dw, db = torch.autograd.grad(function(*inputs), inputs, dy, create_graph=True)
        ((dx * v).sum() + (dw * v_weight).sum() + (db * dw.detach()).sum() * 0).backward()
        return [leaf.grad for leaf in everything]

    whole = second(lambda *a: reference(*a, activation, center_only), x, g, v, *numbers)
    options = dict(activation=activation, center_only=center_only)
    own = second(
        lambda x, *p: F.sync_batch_norm(x, None, None, *p, True, **options),
        *(mine(t, sizes) for t in (x, g, v)),
        *numbers,
    )
    close(on_all_ranks(own[0], sizes), whole[0], torch.float64)
    close(on_all_ranks(own[3], sizes), whole[3], torch.float64)
    close(added_up(own[1]), whole[1], torch.float64)


def test_third_derivative():
    x, g, *_ = problem(UNEVEN, (2, 2))

    def third(function, x, g):
        (x,) = leaves(x)
        y = (torch.tanh(function(x)) * g).sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        (second,) = torch.autograd.grad((first * g).sum(), x, create_graph=True)
        return torch.autograd.grad((second * g).sum(), x)[0]

    def plain(x):  # the third derivative of torch's batch_norm is wrong
        return (x - x.mean([0, 2], keepdim=True)) / (x.var([0, 2], correction=0, keepdim=True) + 1e-5).sqrt()

    whole = third(plain, x, g)
    own = third(lambda x: F.sync_batch_norm(x, None, None, training=True), mine(x, UNEVEN), mine(g, UNEVEN))
    torch.testing.assert_close(on_all_ranks(own, UNEVEN), whole, rtol=1e-9, atol=1e-9)


def test_forward_mode():
    x, v, weight, bias = problem(UNEVEN)
    numbers = weight, bias
    _, expected = torch.func.jvp(lambda x: reference(x, *numbers, "tanh", False), (x,), (v,))
    _, ours = torch.func.jvp(
        lambda x: F.sync_batch_norm(x, None, None, *numbers, True, activation="tanh"),
        (mine(x, UNEVEN),),
        (mine(v, UNEVEN),),
    )
    close(on_all_ranks(ours, UNEVEN), expected, torch.float64)


def test_transforms_of_gradients():
    x, g, *_ = problem(EVEN)
    own_g = mine(g, EVEN)

    def loss(function, g):
        return lambda x: (torch.sigmoid(function(x)) * g).sum()

    whole = torch.func.grad(loss(lambda x: torch.nn.functional.batch_norm(x, None, None, training=True), g))(x)
    ours = torch.func.grad(loss(lambda x: F.sync_batch_norm(x, None, None, training=True), own_g))(mine(x, EVEN))
    close(on_all_ranks(ours, EVEN), whole, torch.float64)
    several = torch.stack((mine(x, EVEN), 2 * mine(x, EVEN) + 1))
    by_vmap = torch.vmap(lambda x: F.sync_batch_norm(x, None, None, training=True, activation="relu"))(several)
    for x_i, y_i in zip(several, by_vmap, strict=True):
        close(y_i, F.sync_batch_norm(x_i, None, None, training=True, activation="relu"), torch.float64)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_without_graph_breaks(backend):
    x, g, *_ = problem(EVEN, dtype=torch.float32)
    module = torchnotes.nn.SyncBatchNorm(4, activation="leaky_relu")
    plain = torchnotes.nn.SyncBatchNorm(4, activation="leaky_relu")
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for _ in range(2):
        inputs = leaves(mine(x, EVEN), mine(x, EVEN))
        compiled(inputs[0]).backward(mine(g, EVEN))
        plain(inputs[1]).backward(mine(g, EVEN))
        close(inputs[0].grad, inputs[1].grad, torch.float32)
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
    groups = [dist.new_group([rank]) for rank in range(WORLD)]
    x = problem(EVEN)[0]
    module = torchnotes.nn.SyncBatchNorm(4, process_group=groups[RANK], dtype=torch.float64)
    close(
        module(mine(x, EVEN)),
        reference(mine(x, EVEN), torch.ones(4).double(), torch.zeros(4).double(), None, False),
        torch.float64,
    )
    pair = dist.new_group([0, 1])
    if RANK < 2:
        module.process_group = pair
        two = torch.cat(x.split(EVEN)[:2])
        expected = reference(two, torch.ones(4).double(), torch.zeros(4).double(), None, False)
        close(module(mine(x, EVEN)), expected.split(EVEN[:2])[RANK], torch.float64)
    else:
        module.process_group = pair
        with pytest.raises(ValueError, match=f"rank {RANK} is not in the process group"):
            module(mine(x, EVEN))


def test_conversion_keeps_parameters_buffers_and_options():
    ours = torchnotes.nn.BatchNorm2d(4, eps=0.1, momentum=None, activation="leaky_relu", negative_slope=0.2, bias=False)
    model = torch.nn.ModuleDict(
        {"theirs": torch.nn.BatchNorm1d(3).eval(), "ours": ours, "other": torch.nn.Linear(2, 2)}
    )
    weight = model["theirs"].weight
    converted = torchnotes.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model
    assert converted["theirs"].weight is weight
    assert not converted["theirs"].training
    assert type(converted["ours"]) is torchnotes.nn.SyncBatchNorm
    assert (converted["ours"].eps, converted["ours"].momentum, converted["ours"].activation) == (
        0.1,
        None,
        "leaky_relu",
    )
    assert converted["ours"].bias is None
    assert converted["ours"].negative_slope == 0.2
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
    x = torch.randn(2, channels, 3)
    for agreeing in (True, False):
        if agreeing:
            F.sync_batch_norm(torch.randn(2, 4, 3), None, None, training=True)
        else:
            with pytest.raises(RuntimeError, match=f"sync_batch_norm: the ranks disagree on {message}"):
                F.sync_batch_norm(x, None, None, training=True, **options)


def test_bad_input():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        F.sync_batch_norm(torch.randn(1 if RANK == 0 else 0, 3), None, None, training=True)
    running = torch.zeros(3), torch.ones(3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        F.sync_batch_norm(torch.randn(0, 3), *running, training=True)
    assert torch.equal(running[0], torch.zeros(3))
    with pytest.raises(TypeError, match="process_group must be"):
        F.sync_batch_norm(torch.randn(2, 3), None, None, training=True, process_group="world")
    with pytest.raises(ValueError, match="at least 2D"):
        F.sync_batch_norm(torch.randn(3), None, None, training=True)
    with pytest.raises(RuntimeError, match="weight should contain 3 elements not 2"):
        F.sync_batch_norm(torch.randn(2, 3), *running, weight=torch.ones(2), training=True)
    x = torch.randn(2 if RANK == 0 else 0, 3)  # nothing is overwritten before an error
    for wrong, error, message in (
        ({"running_mean": torch.zeros(2)}, RuntimeError, "running_mean should contain 3 elements not 2"),
        ({"running_var": torch.zeros(3).requires_grad_()}, RuntimeError, "with respect to running_var"),
        ({"momentum": "x"}, TypeError, "'momentum' must be float, not str"),
    ):
        before = x.clone()
        arguments = {"running_mean": running[0], "running_var": running[1]} | wrong
        with pytest.raises(error, match=message):
            F.sync_batch_norm(x, **arguments, training=True, inplace=True)
        assert torch.equal(x, before)
        assert torch.equal(running[0], torch.zeros(3))
    y = F.sync_batch_norm(torch.randn(2, 3).requires_grad_() * 1, None, None, training=True, inplace=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        y.sum().backward(create_graph=True)
