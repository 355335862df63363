"""The optimizers on DTensors, with fully_shard and with other placements. Every rank knows the full tensors."""

import functools
import pickle

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


def give_gradients(params: list[DTensor], wholes: list[Tensor]) -> None:
    for p, whole in zip(params, wholes, strict=True):
        whole.grad = torch.randn(whole.shape, dtype=torch.float64).to(whole.dtype)
        p.grad = distribute_tensor(whole.grad.clone(), p.device_mesh, p.placements)


def assert_whole(params: list[DTensor], wholes: list[Tensor], tolerance: float = 1e-12) -> None:
    for p, whole in zip(params, wholes, strict=True):
        torch.testing.assert_close(p.detach().full_tensor(), whole.detach(), rtol=tolerance, atol=tolerance)


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
def test_trajectory_is_that_of_torch_on_the_full_tensors(name, placed):
    wholes = parameters(SHAPES, torch.float64)
    params = sharded(wholes, placed)
    ours = getattr(optim, name)(params, lr=0.01, **OPTIMIZERS[name])
    theirs = getattr(torch.optim, name)(wholes, lr=0.01, **OPTIMIZERS[name])
    for _ in range(3):
        give_gradients(params, wholes)
        ours.step()
        theirs.step()
    assert_whole(params, wholes)
    for p, whole in zip(params, wholes, strict=True):
        assert set(ours.state[p]) == set(theirs.state[whole])
        for key, expected in theirs.state[whole].items():
            state = ours.state[p][key]
            if key != "step":
                assert state.placements == p.placements
                state = state.full_tensor()
            torch.testing.assert_close(state, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "placed"), [case for case in dict.fromkeys(CASES) if "replicated" not in case[1]])
def test_16_bit_parameters_are_rounded_as_in_one_process(name, placed):
    """tests/optimizer_checks.py pins the random numbers. There is a plain parameter between the DTensors."""
    for short in SIXTEEN_BITS:
        for rounding in ("stochastic", "kahan") if placed == "rows and columns" else ("stochastic",):
            wholes = parameters((*SHAPES, (300, 9)), short)
            params = sharded(wholes, placed)
            beside, beside_whole = (torch.ones(100, dtype=short, requires_grad=True) for _ in range(2))
            optimizers = [
                getattr(optim, name)([{"params": [*of[:2], plain]}, {"params": of[2:]}], lr=2.0**-6, rounding=rounding)
                for of, plain in ((params, beside), (wholes, beside_whole))
            ]
            for _ in range(2):
                give_gradients(params, wholes)
                beside.grad = beside_whole.grad = torch.randn(100, dtype=short)
                for optimizer in optimizers:
                    optimizer.step()
            assert_whole(params, wholes, 0)
            assert torch.equal(beside, beside_whole)
            if rounding == "kahan":
                kept = [
                    [optimizer.state[p]["compensation"] for p in of]
                    for optimizer, of in zip(optimizers, (params, wholes), strict=True)
                ]
                assert_whole(*kept, 0)


def in_many_ways(wholes: list[Tensor]) -> list[Tensor]:
    """Each with another placement. The first one stays a plain tensor."""
    ways = (None, *PLACEMENTS)
    params = []
    for i, whole in enumerate(wholes):
        way = ways[i % len(ways)]
        params.append(copies([whole])[0] if way is None else sharded([whole], way)[0])
    return params


def give_mixed_gradients(params: list[Tensor], wholes: list[Tensor], scale: float = 1.0) -> None:
    for p, whole in zip(params, wholes, strict=True):
        whole.grad = torch.randn_like(whole)
        scaled = whole.grad * scale  # a copy, even if scale is 1
        p.grad = distribute_tensor(scaled, p.device_mesh, p.placements) if isinstance(p, DTensor) else scaled


@pytest.mark.parametrize(("name", "wide"), (("SGD", torch.float32), ("Adam", torch.float64)))
def test_clips_by_the_norm_of_the_full_tensors(name, wide):
    wholes = parameters([(5, 3)] * 8, wide)
    params = in_many_ways(wholes)
    ours = getattr(optim, name)([{"params": params[:5]}, {"params": params[5:]}], lr=0.01, max_grad_norm=0.1)
    theirs = getattr(torch.optim, name)(wholes, lr=0.01)
    for scale in (1.0, 4.0):
        give_mixed_gradients(params, wholes, scale)
        params[3].grad = wholes[3].grad = None
        ours.grad_scale = torch.tensor(scale)
        norm = torch.nn.utils.clip_grad_norm_(wholes, 0.1)
        ours.step()
        theirs.step()
        assert type(ours.grad_norm) is Tensor
        torch.testing.assert_close(ours.grad_norm, norm, check_dtype=False)
        of_ranks = [torch.zeros_like(ours.grad_norm) for _ in range(dist.get_world_size())]
        dist.all_gather(of_ranks, ours.grad_norm)
        assert all(torch.equal(of_rank, ours.grad_norm) for of_rank in of_ranks)
    for p, whole in zip(params, wholes, strict=True):
        p = p.full_tensor() if isinstance(p, DTensor) else p
        torch.testing.assert_close(p, whole, rtol=1e-5, atol=1e-6)


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
    wholes = parameters([(5, 3), (5, 3), (4,), (6,)], torch.float64)
    params = [*sharded(wholes[:3], "rows"), *sharded(wholes[3:], "replicated")]
    ours = optim.Adam(params, lr=0.01, max_grad_norm=0.5)
    theirs = torch.optim.Adam(wholes, lr=0.01)
    mesh, ranks = mesh_of(1), dist.get_world_size()
    for _ in range(2):
        for whole in wholes:
            whole.grad = torch.randn_like(whole)
        params[0].grad = distribute_tensor(wholes[0].grad.clone(), mesh, [Replicate()])
        params[1].grad = distribute_tensor(wholes[1].grad, mesh, [Shard(1)])
        params[2].grad = DTensor.from_local(wholes[2].grad / ranks, mesh, [Partial()])
        params[3].grad = distributed(wholes[3].grad, "rows").redistribute(placements=[Replicate()], async_op=True)
        norm = torch.nn.utils.clip_grad_norm_(wholes, 0.5)
        ours.step()
        theirs.step()
        torch.testing.assert_close(ours.grad_norm, norm)
    assert_whole(params, wholes)


@pytest.mark.parametrize("fails_on", ("rank 0", "the last rank"))
def test_all_ranks_skip_a_step_if_one_gradient_is_infinite(fails_on):
    wholes = parameters([(8, 3), (5,)], torch.float32)
    params = sharded(wholes, "rows")
    ours, theirs = optim.Adam(params, max_grad_norm=1.0), torch.optim.Adam(wholes)
    scaler, plain = (torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in range(2))
    for step in range(4):
        give_gradients(params, wholes)
        if step == 1:
            place = 0 if fails_on == "rank 0" else -1
            wholes[0].grad[place] = torch.inf
            params[0].grad = distribute_tensor(wholes[0].grad.clone(), mesh_of(1), [Shard(0)])
        for x in (*params, *wholes):
            x.grad *= scaler.get_scale()
        scaler.scale(torch.zeros(())), plain.scale(torch.zeros(()))  # as for the loss
        plain.unscale_(theirs)
        torch.nn.utils.clip_grad_norm_(wholes, 1.0)
        for scales, optimizer in ((scaler, ours), (plain, theirs)):
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


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, max_norm: float | None = None) -> None:
    """All ranks have the same batch, so that their gradients equal the mean."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        words, targets = torch.randint(11, (2, 16), generator=generator)
        optimizer.zero_grad()
        torchnotes.nn.CrossEntropyLoss()(net(words), targets).backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        optimizer.step()


@pytest.mark.parametrize(("name", "dimensions"), (("SGD", 1), ("RMSprop", 2), ("Adam", 2), ("AdamW", 1)))
def test_fully_shard(name, dimensions):
    """With shared parameters and buffers. On a mesh of two dimensions each shard has replicas."""
    net, whole = (Net().double() for _ in range(2))
    whole.load_state_dict(net.state_dict())
    mesh = mesh_of(dimensions)
    fully_shard(net.hidden, mesh=mesh)
    fully_shard(net, mesh=mesh)
    assert net.out.weight is net.embedding.weight
    ours = getattr(optim, name)(net.parameters(), lr=0.01, max_grad_norm=0.3, **OPTIMIZERS[name])
    theirs = getattr(torch.optim, name)(whole.parameters(), lr=0.01, **OPTIMIZERS[name])
    train(net, ours)
    train(whole, theirs, max_norm=0.3)
    for key, expected in whole.state_dict().items():
        value = net.state_dict()[key]
        value = value.full_tensor() if isinstance(value, DTensor) else value
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_fully_shard_of_sharded_parameters():
    """Tensor parallelism in the same dimension makes each rank's rows a shard of a shard."""
    whole = parameters([(12, 70)], torch.bfloat16)[0]
    mesh = mesh_of(2)
    net = torch.nn.Linear(70, 12, bias=False)
    net.weight = torch.nn.Parameter(distribute_tensor(whole.detach().clone(), mesh["shards"], [Shard(0)]))
    (p,) = fully_shard(net, mesh=mesh["replicas"]).parameters()
    assert mesh.size(1) == 1 or p.placements != (Shard(0), Shard(0))
    ours, alone = (optim.Adam([of], rounding="stochastic", max_grad_norm=0.1) for of in (p, whole))
    for _ in range(2):
        whole.grad = torch.randn_like(whole)
        of_shard = distribute_tensor(whole.grad.clone(), mesh["shards"], [Shard(0)]).to_local()
        held = of_shard.chunk(mesh.size(0))[mesh.get_local_rank(0)].contiguous()
        p.grad = DTensor.from_local(held, p.device_mesh, p.placements)
        ours.step()
        alone.step()
        torch.testing.assert_close(ours.grad_norm, alone.grad_norm, check_dtype=False)
    assert_whole([p], [whole], 0)


@KINDS
def test_converting_torchs_optimizer_and_back(name):
    wholes = parameters(SHAPES, torch.float64)
    params = sharded(wholes, "rows")
    optimizer = getattr(torch.optim, name)(params, lr=0.01, **OPTIMIZERS[name])
    theirs = getattr(torch.optim, name)(wholes, lr=0.01, **OPTIMIZERS[name])
    for convert in (optim.to_torch, optim.from_torch, optim.to_torch):
        assert convert(optimizer) is optimizer
        give_gradients(params, wholes)
        optimizer.step()
        theirs.step()
    assert_whole(params, wholes)


def test_fallback_to_torchs_step(torchs_step):
    """A differentiable step falls back to torch, and is also clipped by the norm of the full tensors."""
    wholes = parameters([(5, 3), (4,)], torch.float64)
    params = sharded(wholes, "rows")
    steps = []
    for of, kind in ((params, optim.SGD), (wholes, torch.optim.SGD)):
        scaled = [p * 1 for p in of]
        steps.append((scaled, kind(scaled, lr=0.1, differentiable=True)))
    (ours, optimizer), (theirs, other) = steps
    optimizer.param_groups[0]["max_grad_norm"] = 0.1
    give_gradients(ours, theirs)
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.1)
    optimizer.step()
    other.step()
    assert type(optimizer.grad_norm) is Tensor
    torch.testing.assert_close(optimizer.grad_norm, norm)
    assert_whole(ours, theirs)
    optimizer.param_groups[0]["rounding"] = "kahan"
    with pytest.raises(RuntimeError, match="rounding and decoupled_weight_decay need dense gradients"):
        optimizer.step()


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
    for _ in range(2):
        give_gradients(params, wholes)
        ours.step()
        alone.step()
    if dist.get_rank() < 2:
        assert_whole(params, wholes, 0)
        torch.testing.assert_close(ours.grad_norm, alone.grad_norm, check_dtype=False)
    else:
        assert ours.grad_norm == 0


def test_rejects_states_and_gradients_with_other_placements():
    whole = parameters([(4, 4)], torch.float64)[0]
    for placed, other in (("rows", None), ("rows", "columns"), ("replicated", None)):
        (p,) = sharded([whole], placed)
        p.grad = torch.ones_like(p)
        optimizer = optim.Adam([p], lr=0.1)
        optimizer.step()
        kept = p.detach().full_tensor()
        moved = torch.zeros_like(whole) if other is None else distributed(torch.zeros_like(whole), other)
        optimizer.state[p]["exp_avg"] = moved
        with pytest.raises(RuntimeError, match="expected the exp_avg of a parameter to match it, a DTensor placed as"):
            optimizer.step()
        if other is None:
            p.grad = torch.ones(4, 4, dtype=torch.float64)
            with pytest.raises(RuntimeError, match="expected the gradient of a parameter to match it"):
                optim.SGD([p], lr=0.1).step()
        assert torch.equal(p.detach().full_tensor(), kept)


def test_only_contiguous_rows_are_rounded_stochastically():
    held = torch.ones(4, 2, dtype=torch.bfloat16).T
    p = DTensor.from_local(held, mesh_of(1), [Shard(0)]).requires_grad_()
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
    """The last rank has no parameters, and one parameter has no gradient."""
    wholes = parameters([(5, 3), (4,), (2,)], torch.float64)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    own = [whole for i, whole in enumerate(copies(wholes)) if i % (ranks - 1) == rank]
    make = functools.partial(getattr(optim, name), lr=0.01, max_grad_norm=0.1, process_group=dist.group.WORLD)
    optimizer = make([{"params": own}])
    theirs = getattr(torch.optim, name)(wholes, lr=0.01)
    for _ in range(2):
        for whole in wholes[:2]:
            whole.grad = torch.randn_like(whole)
        mine = [whole for i, whole in enumerate(wholes) if i % (ranks - 1) == rank]
        for p, whole in zip(own, mine, strict=True):
            p.grad = None if whole.grad is None else whole.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(wholes, 0.1)
        optimizer.step()
        theirs.step()
        torch.testing.assert_close(optimizer.grad_norm, norm)
    torch.testing.assert_close(own, mine)


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
    wholes = [p for of_stage in stages for p in of_stage]
    theirs = torch.optim.Adam(wholes, lr=0.01)
    for _ in range(2):
        for whole in wholes:
            whole.grad = torch.randn_like(whole)
        for p, whole in zip(params, stage, strict=True):
            p.grad = distribute_tensor(whole.grad.clone(), p.device_mesh, p.placements)
        norm = torch.nn.utils.clip_grad_norm_(wholes, 0.1)
        ours.step()
        theirs.step()
        torch.testing.assert_close(ours.grad_norm, norm)
    assert_whole(params, stage)


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
