"""signal.watch under DistributedDataParallel and fully_shard measures whole parameters and the rank's own batch."""

from dataclasses import astuple

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from torchnotes import nn, signal


def measured(kind: str) -> signal.Record:
    torch.manual_seed(0)
    model: torch.nn.Module = nn.MLP((6, 15, 5), dtype=torch.float64)  # 15 and 5 rows are not evenly divided
    torch.manual_seed(dist.get_rank())
    if kind == "sharded":
        fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),)))
    else:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with signal.watch(model, optimizer) as monitor:
        model(torch.randn(8, 6, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return monitor.records[0]


def test_shards_are_measured_as_a_whole():
    sharded, whole = measured("sharded"), measured("whole")
    assert sharded.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-10)
    assert len(sharded.layers) == 2
    for one, other in zip(sharded.layers, whole.layers, strict=True):
        for number, expected in zip(astuple(one), astuple(other), strict=True):
            assert number == (pytest.approx(expected, rel=1e-10) if isinstance(expected, float) else expected)
