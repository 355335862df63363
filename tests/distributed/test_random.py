"""Random numbers on DTensors are those of the full tensor, for any number of ranks and any placements."""

import functools
import itertools

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

import torchnotes.functional as F
from torchnotes import init, nn
from torchnotes.distributed.shards import runs

KEY = torch.tensor([0x0123_4567_89AB_CDEF, -5])
SHAPES = ((9,), (7, 5), (2, 3), (1, 1), (6, 131), (5, 4, 7), (4, 0), (5, 3, 2, 9))
NOISES = (functools.partial(F.dropout, p=0.3), functools.partial(F.gaussian_dropout, sigma=0.7))
EACH_NOISE = pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.func.__name__)
FILLS = (
    functools.partial(init.uniform_, a=-1, b=3),
    functools.partial(init.normal_, mean=1, std=2),
    functools.partial(init.trunc_normal_, std=2, a=-1, b=3),
)


@functools.cache
def meshes() -> tuple[DeviceMesh, ...]:
    """Meshes of all shapes for the number of ranks. The last one has three dimensions."""
    n = dist.get_world_size()
    shapes = [(n,), (1, n), (n, 1), *([(2, 2)] if n == 4 else []), (n // 2, 2, 1) if n % 2 == 0 else (1, n, 1)]
    return tuple(init_device_mesh("cpu", shape) for shape in shapes)


def places(shape: tuple[int, ...]) -> list[tuple[DeviceMesh, tuple[Placement, ...]]]:
    """All meshes and placements for a tensor of this shape."""
    each = [
        Replicate(),
        *(Shard(d) for d in range(len(shape))),
        *(_StridedShard(d, split_factor=2) for d in (0, 1)[: len(shape)]),
    ]
    return [(mesh, p) for mesh in meshes() for p in itertools.product(each, repeat=mesh.ndim)]


def sharded(whole: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> DTensor:
    """Shards like torch, without communication."""
    return distribute_tensor(whole.detach().clone(), mesh, placements, src_data_rank=None)


def assert_is(actual: DTensor, whole: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> None:
    assert isinstance(actual, DTensor)
    assert (actual.shape, actual.dtype) == (whole.shape, whole.dtype)
    assert actual.placements == tuple(placements)
    assert torch.equal(actual.to_local(), sharded(whole, mesh, placements).to_local())


@pytest.mark.parametrize("shape", ((), *SHAPES), ids=str)
def test_runs_are_at_torchs_positions(shape):
    index = torch.arange(torch.Size(shape).numel()).view(shape)
    for mesh, placements in places(shape):
        x = sharded(index, mesh, placements)
        found, start = [], 0
        for run in runs(x):
            assert run.start == start
            start += run.rows * run.length
            found += [run.first + i * run.pitch + j for i in range(run.rows) for j in range(run.length)]
        assert found == x.to_local().flatten().tolist(), placements


def some_places(shape: tuple[int, ...]) -> list[tuple[DeviceMesh, tuple[Placement, ...]]]:
    """All placements on a mesh of one dimension, and some on other meshes."""
    every = places(shape)
    return [place for place in every if place[0].ndim == 1] + every[len(shape) :: 13]


@EACH_NOISE
def test_noise_and_its_gradient_are_those_of_the_full_tensor(noise):
    """tests/ops/test_random.py tests other dtypes."""
    for shape in SHAPES:
        whole, g = torch.randn(shape).requires_grad_(), torch.randn(shape)
        expected = noise(whole, generator=KEY)
        (expected_gradient,) = torch.autograd.grad(expected, whole, g)
        for place in some_places(shape):
            x = sharded(whole, *place).requires_grad_()
            y = noise(x, generator=KEY)
            assert_is(y.detach(), expected.detach(), *place)
            (gradient,) = torch.autograd.grad(y, x, sharded(g, *place))
            assert_is(gradient, expected_gradient, *place)


@pytest.mark.parametrize("fill", FILLS, ids=lambda fill: fill.func.__name__)
def test_initializers_give_the_numbers_of_the_full_tensor(fill):
    for shape in ((), *SHAPES):
        expected = fill(torch.empty(shape), generator=KEY)
        for place in some_places(shape)[:: 2 if len(shape) > 2 else 1]:
            x = torch.nn.Parameter(sharded(torch.zeros(shape), *place))
            assert fill(x, generator=KEY) is x
            assert_is(x.detach(), expected, *place)


@EACH_NOISE
def test_the_second_derivative(noise):
    whole = torch.randn(5, 7, dtype=torch.float64)

    def derivatives(x: Tensor) -> list[Tensor]:
        y = noise(x, generator=KEY)
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        return [first.detach(), *torch.autograd.grad(first.pow(2).sum(), x)]

    expected = derivatives(whole.clone().requires_grad_())
    for place in places((5, 7)):
        if place[0].ndim == 1:
            for ours, theirs in zip(derivatives(sharded(whole, *place).requires_grad_()), expected, strict=True):
                assert_is(ours, theirs, *place)


@EACH_NOISE
def test_noise_of_partial_sums_is_that_of_the_sum(noise):
    mesh = meshes()[0]
    for shape in ((7, 5), (6, 131)):
        part = torch.randint(-9, 9, shape).double() * (1 + dist.get_rank())
        x = DTensor.from_local(part, mesh, [Partial()]).requires_grad_()
        whole = x.detach().full_tensor()
        expected = noise(whole, generator=KEY)
        y = noise(x, generator=KEY)
        assert_is(y.detach(), expected, mesh, (Replicate(),))
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient.full_tensor(), noise(torch.ones_like(whole), generator=KEY))
        x = sharded(whole, mesh, (Shard(0),)).requires_grad_()
        of_ranks = DTensor.from_local(torch.ones_like(whole), mesh, [Partial()])
        (gradient,) = torch.autograd.grad(noise(x, generator=KEY), x, of_ranks)
        assert_is(gradient, noise(torch.full_like(whole, dist.get_world_size()), generator=KEY), mesh, (Shard(0),))
    for write in (functools.partial(noise, inplace=True), *FILLS):
        x = DTensor.from_local(torch.ones(3, 4), mesh, [Partial()])
        with pytest.raises(RuntimeError, match="partial"):
            write(x)
        assert (x.to_local() == 1).all()


@EACH_NOISE
def test_noise_in_place(noise):
    whole, g = torch.randn(7, 5), torch.randn(7, 5)
    expected = noise(whole, generator=KEY)
    for placement in (Replicate(), Shard(0), Shard(1)):
        place = meshes()[0], (placement,)
        x = sharded(whole, *place)
        assert noise(x, generator=KEY, inplace=True) is x
        assert_is(x, expected, *place)
        leaf = sharded(whole, *place).requires_grad_()
        inner = leaf * 2
        noise(inner, generator=KEY, inplace=True)
        (gradient,) = torch.autograd.grad(inner, leaf, sharded(g, *place))
        assert_is(gradient, 2 * noise(g, generator=KEY), *place)
        with pytest.raises(RuntimeError, match="leaf"):
            noise(leaf, generator=KEY, inplace=True)
        assert_is(leaf.detach(), whole, *place)


def test_modules_and_the_seed():
    """Every call draws a new key, as for plain tensors, but none if there is no noise."""
    whole, place = torch.randn(7, 5), (meshes()[0], (Shard(0),))
    for module in (nn.Dropout(0.3), nn.Dropout(0.3, inplace=True), nn.GaussianDropout(0.3)):
        torch.manual_seed(5)
        expected = [module(whole.clone()) for _ in range(2)]
        torch.manual_seed(5)
        for one in expected:
            assert_is(module(sharded(whole, *place)), one, *place)
        state = torch.get_rng_state()
        x = sharded(whole, *place)
        assert module.eval()(x) is x
        assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(5)
    for fill in (*FILLS, *NOISES):
        assert_is(fill(sharded(whole, *place), generator=generator), fill(whole.clone()), *place)


def test_layouts():
    """Local tensors may have any strides. The result has the strides that the full tensor's would have."""
    mesh, whole = meshes()[0], torch.randn(6, 4, 5)
    for order in itertools.permutations(range(3)):
        permuted = whole.permute(order)
        expected = F.dropout(permuted, generator=KEY)
        for d in range(3):
            x = sharded(whole, mesh, (Shard(order[d]),)).permute(order)
            y = F.dropout(x, generator=KEY)
            assert_is(y, expected, mesh, (Shard(d),))
            assert y.stride() == F.dropout(torch.empty_strided(x.shape, x.stride())).stride()
            init.normal_(x, generator=KEY)
            assert_is(x, init.normal_(torch.empty(permuted.shape), generator=KEY), mesh, (Shard(d),))
    expanded = sharded(torch.ones(1, 4), mesh, (Shard(1),)).expand(6, 4)
    assert_is(y := F.dropout(expanded, generator=KEY), F.dropout(torch.ones(6, 4), generator=KEY), mesh, (Shard(1),))
    assert y.stride() == (4, 1)


def test_a_changed_tensor_raises_in_backward():
    x = sharded(torch.ones(4, 4), meshes()[0], (Shard(0),)).requires_grad_() * 1
    y = x * x
    init.normal_(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_different_seeds_raise():
    torch.manual_seed(dist.get_rank())
    n = dist.get_world_size()
    for mesh in (meshes()[0], meshes()[-1]):
        x = sharded(torch.ones(5, 4), mesh, (Shard(0),) * mesh.ndim)
        own = torch.Generator().manual_seed(dist.get_rank())
        for fill in FILLS:
            for generator in (None, own):
                with pytest.raises(RuntimeError, match=f"random key: .* on rank 0, .* on rank {n - 1}.* the same seed"):
                    fill(x, generator=generator)
        with pytest.raises(RuntimeError, match="numbers: "):
            init.normal_(x, 0, 1 + dist.get_rank(), generator=KEY)
        assert (x.to_local() == 1).all(), "nothing is written"
    unmet = init_device_mesh("cpu", (n,), mesh_dim_names=("unmet",))
    x = sharded(torch.ones(5, 4), unmet, (Shard(0),))
    F.dropout(x.to("meta"))  # does not communicate
    for noise in NOISES:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="random key"):
                noise(x)
    noise(x, generator=KEY)
    noise(x)  # a mesh is only checked once


def network() -> torch.nn.Module:
    """On the meta device."""
    with torch.device("meta"):
        return torch.nn.Sequential(
            torch.nn.Embedding(11, 6),
            torch.nn.Linear(6, 10),
            torch.nn.LayerNorm(10),
            nn.Linear(10, 6, activation="relu"),
            torch.nn.Conv1d(6, 4, 3, groups=2, bias=False),
            torch.nn.ConvTranspose1d(4, 7, 3),
        )


def zeroed(model: torch.nn.Module) -> torch.nn.Module:
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize("scheme", ("he", "glorot_uniform"))
def test_initialize_a_sharded_model(scheme):
    expected = init.initialize_(zeroed(network()), scheme, seed=3)
    torch.manual_seed(3)
    drawn = init.initialize_(zeroed(network()), scheme)
    for mesh in meshes():
        if mesh.ndim == 1:
            model = fully_shard(network(), mesh=mesh)
        elif mesh.ndim == 2:  # fully_shard of sharded parameters
            mesh = init_device_mesh("cpu", mesh.shape, mesh_dim_names=("data", "tensor"))
            plan = {"0": RowwiseParallel(), "1": ColwiseParallel(), "3": RowwiseParallel()}
            model = fully_shard(parallelize_module(network(), mesh["tensor"], plan), mesh=mesh["data"])
        else:
            continue
        for seed, whole in ((3, expected), (None, drawn)):
            torch.manual_seed(3)
            assert init.initialize_(zeroed(model), scheme, seed=seed) is model
            for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
                assert_is(ours.detach(), theirs.detach(), ours.device_mesh, ours.placements)


def test_initialize_with_different_seeds():
    model = zeroed(fully_shard(network(), mesh=meshes()[0]))
    with pytest.raises(RuntimeError, match="seed: 0 on rank 0, 1 on rank 1"):
        init.initialize_(model, seed=dist.get_rank())
    with pytest.raises(RuntimeError, match="scheme: he on rank 0, lecun on rank 1"):
        init.initialize_(model, "lecun" if dist.get_rank() else "he", seed=1)
    assert all((p.to_local() == 0).all() for p in model.parameters()), "nothing is written"


def test_tensors_without_data():
    meta = sharded(torch.ones(5, 4), meshes()[0], (Shard(0),)).to("meta")
    torch.manual_seed(dist.get_rank())
    assert init.normal_(meta) is meta
    assert F.dropout(meta).shape == (5, 4)


def test_compiled_noise():
    x = sharded(torch.randn(6, 5), meshes()[0], (Shard(0),)).requires_grad_()
    torch._dynamo.reset()
    for noise in NOISES:

        def step(x: Tensor, noise: functools.partial = noise) -> Tensor:
            return noise(x * 2, generator=KEY) + 1

        eager, compiled = step(x), torch.compile(step, backend="aot_eager", fullgraph=True)(x)
        assert torch.equal(compiled.to_local(), eager.to_local())
        gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (eager, compiled)]
        assert torch.equal(*(gradient.to_local() for gradient in gradients))
    torch._dynamo.reset()
