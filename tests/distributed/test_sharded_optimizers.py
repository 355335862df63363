"""The optimizers on DTensors, with fully_shard and with other placements. Every rank knows the full tensors."""

import functools
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import torchnotes
from optimizer_checks import SIXTEEN_BITS
from torchnotes import optim
from torchnotes.optim import _fused
from torchnotes.testing.optimizers import copies, parameters

OPTIMIZERS = {
    "SGD": dict(momentum=0.9, dampening=0.5, weight_decay=0.1),
    "RMSprop": dict(momentum=0.9, centered=True),
    "Adam": dict(amsgrad=True, weight_decay=0.1),
    "AdamW": dict(maximize=True),
}
KINDS = pytest.mark.parametrize("name", OPTIMIZERS)
SHAPES = ((5, 3), (7, 70), (1, 2), (2, 3, 65), (0, 4))  # uneven shards, empty on some ranks

PLACEMENTS = {
    "rows": (Shard(0),),
    "columns": (Shard(1),),
    "replicated": (Replicate(),),
    "replicated groups of rows": (Replicate(), Shard(0)),
    "rows and columns": (Shard(0), Shard(1)),
    "columns and rows": (Shard(1), Shard(0)),
    "rows twice": (Shard(0), Shard(0)),
}
# Placements and update rules are independent code, so that not all combinations are needed.
CASES = [*(("Adam", placed) for placed in PLACEMENTS), *((name, "rows and columns") for name in OPTIMIZERS)]


@functools.cache
def mesh_of(dimensions: int) -> DeviceMesh:
    """A mesh of all ranks, square if possible."""
    ranks = dist.get_world_size()
    shape = (ranks,) if dimensions == 1 else (2, 2) if ranks == 4 else (ranks, 1)
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards")[-dimensions:])


def distributed(x: Tensor, placed: str) -> DTensor:
    return distribute_tensor(x.detach().clone(), mesh_of(len(PLACEMENTS[placed])), PLACEMENTS[placed])


def sharded(wholes: list[Tensor], placed: str) -> list[DTensor]:
    return [distributed(whole, placed).requires_grad_() for whole in wholes]


def placed_like(p: Tensor, grad: Tensor) -> Tensor:
    """A copy of the gradient, placed like its parameter."""
    return distribute_tensor(grad.clone(), p.device_mesh, p.placements) if isinstance(p, DTensor) else grad.clone()


def whole_of(x: Tensor) -> Tensor:
    return x.detach().full_tensor() if isinstance(x, DTensor) else x.detach()


def assert_whole(params: list[Tensor], wholes: list[Tensor], tolerance: float) -> None:
    for p, whole in zip(params, wholes, strict=True):
        torch.testing.assert_close(whole_of(p), whole.detach(), rtol=tolerance, atol=tolerance)


def assert_steps_agree(
    ours: torch.optim.Optimizer,
    alone: torch.optim.Optimizer,
    params: list[Tensor],
    wholes: list[Tensor],
    *,
    tolerance: float = 0,
    steps: int = 2,
    gradient: Callable[[Tensor, Tensor], Tensor | None] = placed_like,
) -> None:
    """Steps with `params`, this rank's part, are those with the full tensors, `wholes`: parameters, states, norms."""
    for _ in range(steps):
        for whole in itertools.chain(*(group["params"] for group in alone.param_groups)):
            whole.grad = torch.randn(whole.shape, dtype=torch.float64).to(whole.dtype)
        for p, whole in zip(params, wholes, strict=True):
            p.grad = gradient(p, whole.grad)
            whole.grad = None if p.grad is None else whole.grad
        ours.step()
        alone.step()
        if alone.param_groups[0].get("max_grad_norm"):
            assert type(ours.grad_norm) is Tensor
            torch.testing.assert_close(ours.grad_norm, alone.grad_norm, check_dtype=False)
    assert_whole(params, wholes, tolerance)
    for p, whole in zip(params, wholes, strict=True):
        of_p, of_whole = ours.state[p], alone.state[whole]
        assert set(of_p) == set(of_whole)
        for name in of_whole:
            assert name == "step" or not isinstance(p, DTensor) or of_p[name].placements == p.placements
            assert_whole([of_p[name]], [of_whole[name]], tolerance)


@pytest.fixture(autouse=True)
def by_our_kernels(monkeypatch, request):
    def step_as_torch(_) -> None:
        raise AssertionError("this is torch's step")

    if "torchs_step" not in request.fixturenames:
        monkeypatch.setattr(_fused, "step_as_torch", step_as_torch)


@pytest.fixture
def torchs_step():
    """Enables torch's step for a test that needs it."""


@pytest.mark.parametrize(("name", "placed"), dict.fromkeys(CASES))
def test_steps_are_those_with_the_full_tensors(name, placed):
    wholes = parameters(SHAPES, torch.float64)
    params = sharded(wholes, placed)
    ours, alone = (getattr(optim, name)(of, lr=0.01, **OPTIMIZERS[name]) for of in (params, wholes))
    assert_steps_agree(ours, alone, params, wholes, steps=3)


@pytest.mark.parametrize("short", SIXTEEN_BITS, ids=str)
@pytest.mark.parametrize(("name", "placed"), [case for case in dict.fromkeys(CASES) if "replicated" not in case[1]])
def test_16_bit_parameters_are_rounded_as_in_one_process(name, placed, short):
    """tests/optimizer_checks.py pins the random numbers. There is a plain parameter between the DTensors."""
    for rounding in ("stochastic", "kahan") if placed == "rows and columns" else ("stochastic",):
        wholes = parameters((*SHAPES[:2], (100,), *SHAPES[2:], (300, 9)), short)
        params = sharded(wholes[:2], placed) + copies(wholes[2:3]) + sharded(wholes[3:], placed)
        ours, alone = (
            getattr(optim, name)([{"params": of[:3]}, {"params": of[3:]}], lr=2.0**-6, rounding=rounding)
            for of in (params, wholes)
        )
        assert_steps_agree(ours, alone, params, wholes)


def in_many_ways(wholes: list[Tensor]) -> list[Tensor]:
    """Each with another placement. The first one stays a plain tensor."""
    ways = itertools.cycle((None, *PLACEMENTS))
    return [copies([x])[0] if way is None else sharded([x], way)[0] for x, way in zip(wholes, ways, strict=False)]


@pytest.mark.parametrize(("name", "wide"), (("SGD", torch.float32), ("Adam", torch.float64)))
def test_clips_by_the_norm_of_the_full_tensors(name, wide):
    """The gradients are scaled, and one is absent."""
    wholes = parameters([(5, 3)] * 8, wide)
    params = in_many_ways(wholes)
    ours, alone = (
        getattr(optim, name)([{"params": of[:5]}, {"params": of[5:]}], lr=0.01, max_grad_norm=0.1)
        for of in (params, wholes)
    )
    for scale in (1.0, 4.0):

        def gradient(p: Tensor, grad: Tensor, scale: float = scale) -> Tensor | None:
            return None if p is params[3] else placed_like(p, grad * scale)

        ours.grad_scale = torch.tensor(scale)
        assert_steps_agree(ours, alone, params, wholes, steps=1, gradient=gradient, tolerance=1e-5)
        of_ranks = [torch.zeros_like(ours.grad_norm) for _ in range(dist.get_world_size())]
        dist.all_gather(of_ranks, ours.grad_norm)
        assert all(torch.equal(of_rank, ours.grad_norm) for of_rank in of_ranks)


def test_norm_of_dtensors():
    wholes = parameters([(5, 3)] * 8, torch.float32)
    norm = optim.gradient_norm(in_many_ways(wholes))
    assert (type(norm), norm.dtype) == (Tensor, torch.float32)
    torch.testing.assert_close(norm, torch.nn.utils.get_total_norm(wholes))
    short = [whole.bfloat16() for whole in wholes]
    exact = torch.nn.utils.get_total_norm([x.double() for x in short])
    torch.testing.assert_close(optim.gradient_norm(in_many_ways(short)), exact.float())
    ranks = dist.get_world_size()
    summand = torch.full((3,), 1.0 + dist.get_rank(), dtype=torch.float64)
    partial = DTensor.from_local(summand, mesh_of(1), [Partial()])
    expected = torch.full((3,), ranks * (ranks + 1) / 2, dtype=torch.float64).norm()
    torch.testing.assert_close(optim.gradient_norm([partial]), expected)


def test_gradients_with_other_placements():
    wholes = parameters([(5, 3), (6, 3), (4,), (7,)], torch.float64)
    params = [*sharded(wholes[:3], "rows"), *sharded(wholes[3:], "replicated")]
    ours, alone = (optim.Adam(of, lr=0.01, max_grad_norm=0.5) for of in (params, wholes))
    mesh, ranks = mesh_of(1), dist.get_world_size()
    by_rows: dict[int, Callable[[Tensor], Tensor]] = {
        5: lambda grad: distribute_tensor(grad.clone(), mesh, [Replicate()]),
        6: lambda grad: distribute_tensor(grad, mesh, [Shard(1)]),
        4: lambda grad: DTensor.from_local(grad / ranks, mesh, [Partial()]),
        7: lambda grad: distributed(grad, "rows").redistribute(placements=[Replicate()], async_op=True),
    }
    assert_steps_agree(ours, alone, params, wholes, gradient=lambda p, grad: by_rows[len(grad)](grad), tolerance=1e-12)


@pytest.mark.parametrize("fails_on", ("rank 0", "the last rank"))
def test_all_ranks_skip_a_step_if_one_gradient_is_infinite(fails_on):
    wholes = parameters([(8, 3), (5,)], torch.float32)
    params = sharded(wholes, "rows")
    ours, alone = (optim.Adam(of, max_grad_norm=1.0) for of in (params, wholes))
    scaler, plain = (torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in range(2))
    for step in range(4):
        for p, whole in zip(params, wholes, strict=True):
            whole.grad = torch.randn_like(whole) * scaler.get_scale()
            if step == 1:
                whole.grad[0 if fails_on == "rank 0" else -1] = torch.inf
            p.grad = placed_like(p, whole.grad)
        scaler.scale(torch.zeros(())), plain.scale(torch.zeros(()))  # as for the loss
        for scales, optimizer in ((scaler, ours), (plain, alone)):
            scales.step(optimizer)
            scales.update()
        assert scaler.get_scale() == plain.get_scale()
    assert_whole(params, wholes, 1e-6)
    assert all(ours.state[p]["step"] == 3 for p in params)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 6)
        self.norm = torchnotes.nn.BatchNorm1d(6)
        self.hidden = torch.nn.Sequential(
            torchnotes.nn.Linear(6, 9, activation="tanh"), torchnotes.nn.Linear(9, 6), torchnotes.nn.LeakyReLU()
        )
        self.out = torchnotes.nn.Linear(6, 11, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.hidden(self.norm(self.embedding(words))))


@pytest.mark.parametrize(("name", "dimensions"), (("SGD", 1), ("RMSprop", 2), ("Adam", 2), ("AdamW", 1)))
def test_fully_shard(name, dimensions):
    """With shared parameters and buffers. On a mesh of two dimensions each shard has replicas."""
    net, whole = (Net().double() for _ in range(2))
    whole.load_state_dict(net.state_dict())
    mesh = mesh_of(dimensions)
    fully_shard(net.hidden, mesh=mesh)
    fully_shard(net, mesh=mesh)
    assert net.out.weight is net.embedding.weight
    for each in (net, whole):
        optimizer = getattr(optim, name)(each.parameters(), lr=0.01, max_grad_norm=0.3, **OPTIMIZERS[name])
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):  # all ranks have the same batch, so that their gradients equal the mean
            words, targets = torch.randint(11, (2, 16), generator=generator)
            optimizer.zero_grad()
            torchnotes.nn.CrossEntropyLoss()(each(words), targets).backward()
            optimizer.step()
    for key, expected in whole.state_dict().items():
        torch.testing.assert_close(whole_of(net.state_dict()[key]), expected, rtol=1e-10, atol=1e-12)


def test_fully_shard_of_sharded_parameters():
    """Tensor parallelism in the same dimension makes each rank's rows a shard of a shard."""
    whole = parameters([(12, 70)], torch.bfloat16)[0]
    mesh = mesh_of(2)
    net = torch.nn.Linear(70, 12, bias=False)
    net.weight = torch.nn.Parameter(distribute_tensor(whole.detach().clone(), mesh["shards"], [Shard(0)]))
    (p,) = fully_shard(net, mesh=mesh["replicas"]).parameters()
    assert mesh.size(1) == 1 or p.placements != (Shard(0), Shard(0))

    def gradient(p: Tensor, grad: Tensor) -> Tensor:
        of_shard = distribute_tensor(grad.clone(), mesh["shards"], [Shard(0)]).to_local()
        local = of_shard.chunk(mesh.size(0))[mesh.get_local_rank(0)].contiguous()
        return DTensor.from_local(local, p.device_mesh, p.placements)

    ours, alone = (optim.Adam([of], rounding="stochastic", max_grad_norm=0.1) for of in (p, whole))
    assert_steps_agree(ours, alone, [p], [whole], gradient=gradient)


@KINDS
def test_converting_torchs_optimizer_and_back(name):
    wholes = parameters(SHAPES, torch.float64)
    params = sharded(wholes, "rows")
    optimizer, theirs = (getattr(torch.optim, name)(of, lr=0.01, **OPTIMIZERS[name]) for of in (params, wholes))
    for convert in (optim.to_torch, optim.from_torch, optim.to_torch):
        assert convert(optimizer) is optimizer
        assert_steps_agree(optimizer, theirs, params, wholes, steps=1, tolerance=1e-12)


def test_fallback_to_torchs_step(torchs_step):
    """A differentiable step falls back to torch, and is also clipped by the norm of the full tensors."""
    wholes = parameters([(5, 3), (4,)], torch.float64)
    scaled, scaled_wholes = ([p * 1 for p in of] for of in (sharded(wholes, "rows"), wholes))
    ours, alone = (optim.SGD(of, lr=0.1, differentiable=True, max_grad_norm=0.1) for of in (scaled, scaled_wholes))
    assert_steps_agree(ours, alone, scaled, scaled_wholes, steps=1, tolerance=1e-12)
    ours.param_groups[0]["rounding"] = "kahan"
    with pytest.raises(RuntimeError, match="rounding and decoupled_weight_decay need dense gradients"):
        ours.step()


def test_a_changed_parameter_raises_in_backward():
    params = sharded(parameters([(4, 2)], torch.float64), "rows")
    loss = params[0].square().sum()
    params[0].grad = torch.ones_like(params[0])
    optim.SGD(params, lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_ranks_outside_the_mesh():
    mesh = DeviceMesh("cpu", [0, 1])
    wholes = parameters([(5, 3)], torch.bfloat16)
    params = [distribute_tensor(whole.detach().clone(), mesh, [Shard(0)]).requires_grad_() for whole in wholes]
    ours, alone = (optim.Adam(of, rounding="stochastic", max_grad_norm=0.1) for of in (params, wholes))
    if dist.get_rank() < 2:
        assert_steps_agree(ours, alone, params, wholes)
    else:
        params[0].grad = placed_like(params[0], torch.ones(5, 3, dtype=torch.bfloat16))
        for _ in range(2):
            ours.step()
        assert ours.grad_norm == 0


def test_rejects_states_and_gradients_with_other_placements():
    whole = parameters([(4, 4)], torch.float64)[0]
    for placed, other in (("rows", None), ("rows", "columns"), ("replicated", None)):
        (p,) = sharded([whole], placed)
        p.grad = torch.ones_like(p)
        optimizer = optim.Adam([p], lr=0.1)
        optimizer.step()
        before = whole_of(p)
        moved = torch.zeros_like(whole) if other is None else distributed(torch.zeros_like(whole), other)
        optimizer.state[p]["exp_avg"] = moved
        with pytest.raises(RuntimeError, match="expected the exp_avg of a parameter to match it, a DTensor placed as"):
            optimizer.step()
        if other is None:
            p.grad = torch.ones(4, 4, dtype=torch.float64)
            with pytest.raises(RuntimeError, match="expected the gradient of a parameter to match it"):
                optim.SGD([p], lr=0.1).step()
        assert torch.equal(whole_of(p), before)


def test_only_contiguous_rows_are_rounded_stochastically():
    local = torch.ones(4, 2, dtype=torch.bfloat16).T
    p = DTensor.from_local(local, mesh_of(1), [Shard(0)]).requires_grad_()
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="stochastic rounding needs local shards that consist of contiguous rows"):
        optim.SGD([p], lr=0.1, rounding="stochastic").step()
    assert (p.to_local() == 1).all()


def test_newton_rejects_dtensors():
    with pytest.raises(ValueError, match="plain tensors as parameters, but got a DTensor"):
        optim.Newton(sharded(parameters([(4,)], torch.float64), "rows"))


# parameters that are distributed over the ranks, each one entirely on one rank


@KINDS
def test_norm_covers_all_ranks_of_the_group(name):
    """The last rank has no parameters."""
    wholes = parameters([(5, 3), (4,), (2,)], torch.float64)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    mine = [whole for i, whole in enumerate(wholes) if i % (ranks - 1) == rank]
    own = copies(mine)
    options = dict(lr=0.01, max_grad_norm=0.1)
    ours = getattr(optim, name)([{"params": own}], process_group=dist.group.WORLD, **options)
    assert_steps_agree(ours, getattr(optim, name)(wholes, **options), own, mine, tolerance=1e-12)


def test_a_pipeline_of_sharded_stages():
    """The norm covers the shards of each stage and all stages."""
    ranks = dist.get_world_size()
    if ranks % 2:
        pytest.skip("needs two stages of as many ranks")
    mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("stages", "shards"))
    stages = [parameters([(5, 3)] * n, torch.float64) for n in (2, 1)]
    stage = stages[mesh.get_local_rank("stages")]
    params = [distribute_tensor(p.detach().clone(), mesh["shards"], [Shard(0)]).requires_grad_() for p in stage]
    ours = optim.Adam(params, lr=0.01, max_grad_norm=0.1, process_group=mesh.get_group("stages"))
    alone = optim.Adam([p for of_stage in stages for p in of_stage], lr=0.01, max_grad_norm=0.1)
    assert_steps_agree(ours, alone, params, stage, tolerance=1e-12)


def test_a_scaler_skips_the_step_on_all_ranks_of_the_group():
    rank, ranks = dist.get_rank(), dist.get_world_size()
    params = parameters([(3,)], torch.float32)
    optimizer = optim.SGD(params, lr=0.1, process_group=dist.group.WORLD)
    scaler = ShardedGradScaler("cpu", init_scale=2.0**10, process_group=dist.group.WORLD)
    for failing in (0, ranks - 1, None):
        before = copies(params)
        scaler.scale(params[0].sum() * (torch.inf if rank == failing else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        torch.testing.assert_close(params[0], before[0] - (0.1 if failing is None else 0.0))
    assert scaler.get_scale() == 2.0**8


def test_process_groups_are_not_saved():
    (p,) = params = parameters([(3,)], torch.float64)
    p.grad = torch.ones_like(p)
    optimizer = optim.Adam(params, max_grad_norm=1.0, process_group=dist.group.WORLD)
    optimizer.step()
    optim.Adam(params).load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    with pytest.raises(TypeError, match="cannot pickle"):  # a copy would clip by a different norm
        pickle.dumps(optimizer)
    optimizer.param_groups[0]["max_grad_norm"] = None
    with pytest.raises(ValueError, match="has no process_group"):
        optim.to_torch(optimizer)
    with pytest.raises(TypeError, match="Adam: process_group must be"):
        optim.Adam(params, process_group="gloo")
