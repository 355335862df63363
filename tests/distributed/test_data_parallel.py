"""Compares DistributedDataParallel, fully_shard and ZeroRedundancyOptimizer with one process that has all batches."""

import contextlib
import copy
import functools
import io
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from every_module import EveryModule, batch
from torchnotes import nn, optim

OPTIMIZERS = {  # eps exceeds gradients that are only rounding errors, such as those before batch normalization
    "SGD": dict(momentum=0.9, dampening=0.5, weight_decay=0.1),
    "RMSprop": dict(momentum=0.9, centered=True, eps=1e-3),
    "Adam": dict(amsgrad=True, weight_decay=0.1, eps=1e-3),
    "AdamW": dict(maximize=True, eps=1e-3),
}
KINDS = pytest.mark.parametrize("name", OPTIMIZERS)
STEPS, EACH = 4, 6  # EACH: samples per rank and step


def network() -> torch.nn.Module:
    """Without noise and batch normalization, so that only the union of the ranks' batches matters."""
    layers = nn.Linear(4, 9, activation="leaky_relu"), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)
    return torch.nn.Sequential(*layers).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    """The batch of all ranks for each step."""
    n = EACH * dist.get_world_size()
    return [(torch.randn(n, 4, dtype=torch.float64), torch.randint(3, (n,))) for _ in range(STEPS)]


def own_part(x: Tensor) -> Tensor:
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def learn(
    net: torch.nn.Module, optimizer: torch.optim.Optimizer, all_batches: list, max_norm: float | None = None
) -> None:
    """Trains on the full batches, or on this rank's part if the network is data-parallel."""
    loss = nn.CrossEntropyLoss()
    for inputs, targets in all_batches:
        parts = (inputs, targets)
        if isinstance(net, DistributedDataParallel):
            parts = own_part(inputs), own_part(targets)
        optimizer.zero_grad()
        loss(net(parts[0]), parts[1]).backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        optimizer.step()


def assert_same(net: torch.nn.Module, whole: torch.nn.Module, tolerance: float = 1e-11) -> None:
    for p, expected in zip(net.parameters(), whole.parameters(), strict=True):
        p = p.detach().full_tensor() if isinstance(p, DTensor) else p
        torch.testing.assert_close(p, expected, rtol=tolerance, atol=tolerance)


def ours_and_torchs(
    name: str, net: torch.nn.Module, whole: torch.nn.Module, **options: Any
) -> list[torch.optim.Optimizer]:
    ours = getattr(optim, name)(net.parameters(), lr=0.01, **OPTIMIZERS[name], **options)
    return [ours, getattr(torch.optim, name)(whole.parameters(), lr=0.01, **OPTIMIZERS[name])]


@pytest.mark.parametrize(
    "options", ({}, {"static_graph": True}, {"gradient_as_bucket_view": True, "bucket_cap_mb": 0.0001}), ids=str
)
@KINDS
def test_trajectory_is_that_of_the_full_batch(name, options):
    net, all_batches = network(), batches()
    whole = copy.deepcopy(net)
    ours, theirs = ours_and_torchs(name, net, whole, max_grad_norm=0.5)
    learn(DistributedDataParallel(net, **options), ours, all_batches)
    learn(whole, theirs, all_batches, max_norm=0.5)
    assert_same(net, whole)


@pytest.mark.parametrize("as_view", (False, True), ids=("gradients", "views"))
@KINDS
def test_gradients_accumulate_without_sync(name, as_view):
    net, all_batches = network(), batches()
    whole = copy.deepcopy(net)
    optimizers = ours_and_torchs(name, net, whole)
    parallel = DistributedDataParallel(net, gradient_as_bucket_view=as_view)
    loss = nn.CrossEntropyLoss()
    for _ in range(2):
        for i, (inputs, targets) in enumerate(all_batches):
            last = i == len(all_batches) - 1
            with contextlib.nullcontext() if last else parallel.no_sync():
                loss(parallel(own_part(inputs)), own_part(targets)).backward()
            loss(whole(inputs), targets).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    assert_same(net, whole)


def buffers_of(net: torch.nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in net.buffers()]


@pytest.mark.parametrize("wrapped", ("DistributedDataParallel", "fully_shard"))
@KINDS
def test_every_module(name, wrapped):
    """Compares with one process that runs the ranks' batches in turn. The buffers of batch normalization are those of
    rank 0 with DistributedDataParallel, and each rank's own with fully_shard."""
    net, rank, ranks = EveryModule(), dist.get_rank(), dist.get_world_size()
    whole = copy.deepcopy(net)
    sharded = wrapped == "fully_shard"
    if sharded:
        fully_shard(net.dense)
    parallel = fully_shard(net) if sharded else DistributedDataParallel(net)
    optimizers = ours_and_torchs(name, net, whole)
    all_batches = [[batch(EACH) for _ in range(ranks)] for _ in range(STEPS)]
    of_ranks = [buffers_of(whole)] * ranks
    for step, of_step in enumerate(all_batches):
        torch.manual_seed(100 * step + rank)
        parallel(*of_step[rank]).backward()
        for i, of_rank in enumerate(of_step):
            torch.manual_seed(100 * step + i)
            for buffer, value in zip(whole.buffers(), of_ranks[i], strict=True):
                buffer.copy_(value)
            (whole(*of_rank) / ranks).backward()
            of_ranks[i] = buffers_of(whole)
        if not sharded:
            torch.testing.assert_close(buffers_of(net), of_ranks[rank], rtol=1e-9, atol=1e-11)
            of_ranks = of_ranks[:1] * ranks
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert_same(net, whole, 1e-9)
    if sharded:
        torch.testing.assert_close(buffers_of(net), of_ranks[rank], rtol=1e-9, atol=1e-11)


# ZeroRedundancyOptimizer, where each parameter belongs to one rank


@pytest.mark.parametrize("as_view", (False, True), ids=("parameters", "views"))
@KINDS
def test_zero_redundancy_and_its_checkpoint(name, as_view):
    """Training continues with ZeroRedundancyOptimizer and with torch's optimizer."""

    def zero(net: torch.nn.Module) -> ZeroRedundancyOptimizer:
        of_all = functools.partial(getattr(optim, name), process_group=dist.group.WORLD, max_grad_norm=0.5)
        options = dict(lr=0.01, parameters_as_bucket_view=as_view, **OPTIMIZERS[name])
        return ZeroRedundancyOptimizer(net.parameters(), of_all, **options)

    def by_torch(net: torch.nn.Module) -> torch.optim.Optimizer:
        return getattr(torch.optim, name)(net.parameters(), lr=0.01, **OPTIMIZERS[name])

    net, all_batches = network(), batches()
    whole = copy.deepcopy(net)
    optimizer, theirs = zero(net), by_torch(whole)
    learn(DistributedDataParallel(net), optimizer, all_batches)
    learn(whole, theirs, all_batches, max_norm=0.5)
    assert_same(net, whole)
    optimizer.consolidate_state_dict(to=0)
    saved = [None]
    if dist.get_rank() == 0:
        torch.save(optimizer.state_dict(), file := io.BytesIO())
        saved = [file.getvalue()]
    dist.broadcast_object_list(saved, src=0)
    twin, alone = copy.deepcopy(net), copy.deepcopy(net)
    continued = zero(twin), by_torch(alone)
    for one in continued:
        one.load_state_dict(torch.load(io.BytesIO(saved[0]), weights_only=True))
    learn(DistributedDataParallel(twin), continued[0], all_batches)
    for by_itself, of_torch in ((alone, continued[1]), (whole, theirs)):
        learn(by_itself, of_torch, all_batches, max_norm=0.5)
    assert_same(twin, whole)
    assert_same(alone, whole)
