"""Random numbers on DTensors. Each rank generates those of its own shard, which are the numbers of the full tensor,
because an element's number is a function of the key and of its index in the full tensor.

Every rank draws the key from its own generator. This takes no message, but requires the same seed on all ranks, as in
torch. Initializers check this in every call. Dropout checks it once per mesh, because a message takes longer than the
dropout of a small tensor (0.15 to 0.6 ms by gloo), and on a GPU it would synchronize. This finds ranks that were seeded
differently, but not ranks whose generators have diverged since.

Measured in docs/decisions/random-shards.md.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.compiler import is_compiling

from .agreement import agree_on_mesh
from .shards import runs

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

ShardPosition = tuple[int, int, int] | None  # first, length, pitch (csrc/tensors/keys.h)

_met: "WeakSet[DeviceMesh]" = WeakSet()  # the meshes on which dropout has checked that all ranks have the same key


def without_partial_sums(x: "DTensor") -> "DTensor":
    """x, with partial sums reduced."""
    from torch.distributed.tensor import Replicate

    if not any(placement.is_partial() for placement in x.placements):
        return x
    return x.redistribute(placements=[Replicate() if p.is_partial() else p for p in x.placements])


def by_parts(x: "DTensor", change: Callable[[Tensor, ShardPosition], Tensor]) -> "DTensor":
    """Applies `change` to each rank's part of x and returns a new DTensor, without a derivative."""
    from torch.distributed.tensor import DTensor

    with torch.no_grad():
        y = _by_runs(x, x.to_local(), change)
        like_x = x if x.is_contiguous() else torch.empty_like(torch.empty_strided(x.shape, x.stride(), device="meta"))
        stride = like_x.stride()
        return DTensor.from_local(y, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=stride)


def check_in_place(x: "DTensor", operation: str) -> None:
    if any(placement.is_partial() for placement in x.placements):
        raise RuntimeError(f"{operation}: cannot overwrite a DTensor of partial sums, got {x.placements}")


def change_parts_(x: "DTensor", change: Callable[[Tensor, ShardPosition], Tensor]) -> "DTensor":
    """Applies `change`, which may work in place, to each rank's part of x and returns x."""
    with torch.no_grad():
        local = x.to_local()
        changed = _by_runs(x, local, change)
        if changed is not local:
            local.copy_(changed)
    torch.autograd.graph.increment_version(x)
    return x


def _by_runs(x: "DTensor", local: Tensor, change: Callable[[Tensor, ShardPosition], Tensor]) -> Tensor:
    """Applies `change` to each run of `local`, the part of x.

    There is a single run, except for unusual placements and if a dimension that is not sharded precedes two that are.
    """
    all_runs = runs(x)
    shards = [(run.first, run.length, run.pitch) for run in all_runs]
    if len(shards) < 2:
        return change(local, shards[0] if shards else None)
    pieces = local.reshape(-1).split([run.rows * run.length for run in all_runs])
    return torch.cat([change(piece, shard) for piece, shard in zip(pieces, shards, strict=True)]).view_as(local)


def meet(x: "DTensor", operation: str, key: Tensor) -> None:
    """Checks the key when a mesh is used for the first time."""
    if _has_ranks_to_ask(x) and x.device_mesh not in _met:
        make_sure(x, operation, random_key=key)
        _met.add(x.device_mesh)


def make_sure(x: "DTensor", operation: str, **what: Any) -> None:
    """Raises unless all ranks of x have the same values."""
    if _has_ranks_to_ask(x):
        agree_on_mesh(
            operation,
            x.device_mesh.get_all_groups(),
            x.device,
            hint="Give every rank the same seed, by torch.manual_seed or in its generator",
            **{name: tuple(value.tolist()) if isinstance(value, Tensor) else value for name, value in what.items()},
        )


def _has_ranks_to_ask(x: "DTensor") -> bool:
    """False for FakeTensors and meta tensors, and on ranks outside the mesh."""
    if is_compiling() or x.is_meta or isinstance(x._local_tensor, FakeTensor):
        return False
    return x.device_mesh.get_coordinate() is not None
