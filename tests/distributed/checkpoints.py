"""Saves and loads distributed checkpoints of our optimizers and torch's: `torchrun ... checkpoints.py save DIRECTORY`,
then `load` with another number of ranks. tests/test_distributed_checkpoint.py runs both.
"""

import datetime
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from torchnotes import optim

OPTIONS = {
    "SGD": dict(momentum=0.9),
    "RMSprop": dict(momentum=0.9, centered=True),
    "Adam": dict(amsgrad=True),
    "AdamW": {},
}
STEPS = 3


def network(seed: int, dtype: torch.dtype = torch.float64) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).to(dtype)


def optimizer_of(net: torch.nn.Module, whose: Any, name: str, **options: Any) -> Optimizer:
    return getattr(whose, name)(net.parameters(), lr=0.02, **OPTIONS[name], **options)


def train(net: torch.nn.Module, optimizer: Optimizer, after: int = 0) -> None:
    """Trains for a few steps, numbered from `after`, with the same batch on every rank."""
    for step in range(after, after + STEPS):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step)).to(next(net.parameters()).dtype)
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()


def save(net: torch.nn.Module, optimizer: Optimizer, path: Path) -> None:
    of_net, of_optimizer = get_state_dict(net, optimizer)
    dcp.save({"net": of_net, "optimizer": of_optimizer}, checkpoint_id=path)


def load(net: torch.nn.Module, optimizer: Optimizer, path: Path) -> None:
    of_net, of_optimizer = get_state_dict(net, optimizer)
    state = {"net": of_net, "optimizer": of_optimizer}
    planner = DefaultLoadPlanner(allow_partial_load=True)  # torch's optimizers do not save our options
    dcp.load(state, checkpoint_id=path, planner=planner)
    set_state_dict(net, optimizer, model_state_dict=state["net"], optim_state_dict=state["optimizer"])


def assert_trained(net: torch.nn.Module, name: str) -> None:
    """Compares with torch's optimizer in one process."""
    whole = network(0)
    optimizer = optimizer_of(whole, torch.optim, name)
    train(whole, optimizer)
    train(whole, optimizer, after=STEPS)
    for p, expected in zip(net.parameters(), whole.parameters(), strict=True):
        p = p.detach().full_tensor() if isinstance(p, DTensor) else p
        torch.testing.assert_close(p, expected, rtol=1e-11, atol=1e-12)


def save_all(directory: Path) -> None:
    for name in OPTIONS:
        for whose in (optim, torch.optim):
            net = fully_shard(network(0))
            optimizer = optimizer_of(net, whose, name)
            train(net, optimizer)
            save(net, optimizer, directory / f"{whose.__name__} {name}")
    net = fully_shard(network(0, torch.bfloat16))
    optimizer = optimizer_of(net, optim, "Adam", rounding="kahan", max_grad_norm=0.5)
    train(net, optimizer)
    save(net, optimizer, directory / "own options")


def load_all(directory: Path) -> None:
    for name in OPTIONS:
        for saved in (optim, torch.optim):
            for whose in (optim, torch.optim):
                net = fully_shard(network(1))
                optimizer = optimizer_of(net, whose, name)
                load(net, optimizer, directory / f"{saved.__name__} {name}")
                train(net, optimizer, after=STEPS)
                assert_trained(net, name)
    net, whole = fully_shard(network(1, torch.bfloat16)), network(0, torch.bfloat16)
    alone = optimizer_of(whole, optim, "Adam", rounding="kahan", max_grad_norm=0.5)
    train(whole, alone)
    train(whole, alone, after=STEPS)
    optimizer = optimizer_of(net, optim, "Adam")
    optimizer.param_groups[0]["rounding"] = "kahan"  # creates the compensations that are to be loaded
    load(net, optimizer, directory / "own options")
    assert optimizer.param_groups[0]["max_grad_norm"] == 0.5
    train(net, optimizer, after=STEPS)
    for p, expected in zip(net.parameters(), whole.parameters(), strict=True):
        assert torch.equal(p.detach().full_tensor(), expected)


if __name__ == "__main__":
    _, what, path = sys.argv
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    {"save": save_all, "load": load_all}[what](Path(path))
    dist.barrier()  # a rank that exits early would close the connections of the others
    dist.destroy_process_group()
