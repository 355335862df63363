"""Random numbers on DTensors. Each rank makes those of its own part, which are the very ones of the whole tensor, since
an element's number is a function of the key and of its place in the whole.

Every rank draws the key from its own generator: that takes no message, but the same seed on all ranks, which torch asks
for as well. Initializers make sure of it each time. Dropout does so when it meets a mesh for the first time: a message
takes longer than the dropout of a small tensor (0.15 to 0.6 ms by gloo), and a GPU would have to be waited for. That
finds ranks that were seeded differently, not those that have drawn differently since.

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

Place = tuple[int, int, int] | None  # first, length, pitch (csrc/keys.h)

_met: "WeakSet[DeviceMesh]" = WeakSet()  # by dropout, with the same key on all ranks


def without_partial_sums(x: "DTensor") -> "DTensor":
    """x, what it is a sum of added up."""
    from torch.distributed.tensor import Replicate

    if not any(placement.is_partial() for placement in x.placements):
        return x
    return x.redistribute(placements=[Replicate() if p.is_partial() else p for p in x.placements])


def by_parts(x: "DTensor", change: Callable[[Tensor, Place], Tensor]) -> "DTensor":
    """A DTensor like x, made by each rank of its part. Without a derivative."""
    from torch.distributed.tensor import DTensor

    with torch.no_grad():
        y = _by_runs(x, x.to_local(), change)
        like_x = x if x.is_contiguous() else torch.empty_like(torch.empty_strided(x.shape, x.stride(), device="meta"))
        stride = like_x.stride()
        return DTensor.from_local(y, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=stride)


def check_in_place(x: "DTensor", operation: str) -> None:
    if any(placement.is_partial() for placement in x.placements):
        raise RuntimeError(f"{operation}: a DTensor of partial sums cannot be written over. Got: {x.placements}")


def change_parts_(x: "DTensor", change: Callable[[Tensor, Place], Tensor]) -> "DTensor":
    """x, whose part each rank has changed in place."""
    with torch.no_grad():
        local = x.to_local()
        changed = _by_runs(x, local, change)
        if changed is not local:
            local.copy_(changed)
    torch.autograd.graph.increment_version(x)
    return x


def _by_runs(x: "DTensor", local: Tensor, change: Callable[[Tensor, Place], Tensor]) -> Tensor:
    """local, the part of x, as `change` makes it of its runs: one, but where a dimension before two that are cut is
    whole, and for unusual placements."""
    all_runs = runs(x)
    places = [(run.first, run.length, run.pitch) for run in all_runs]
    if len(places) < 2:
        return change(local, places[0] if places else None)
    pieces = local.reshape(-1).split([run.rows * run.length for run in all_runs])
    return torch.cat([change(piece, place) for piece, place in zip(pieces, places, strict=True)]).view_as(local)


def meet(x: "DTensor", operation: str, key: Tensor) -> None:
    """Check the key where x is the first to be on its mesh."""
    if _has_ranks_to_ask(x) and x.device_mesh not in _met:
        make_sure(x, operation, random_key=key)
        _met.add(x.device_mesh)


def make_sure(x: "DTensor", operation: str, **what: Any) -> None:
    """That all ranks of x have the same."""
    if _has_ranks_to_ask(x):
        agree_on_mesh(
            operation,
            x.device_mesh.get_all_groups(),
            x.device,
            hint="Give every rank the same seed, by torch.manual_seed or in its generator",
            **{name: tuple(value.tolist()) if isinstance(value, Tensor) else value for name, value in what.items()},
        )


def _has_ranks_to_ask(x: "DTensor") -> bool:
    """Not of what stands for a tensor, nor on the mesh of other ranks."""
    if is_compiling() or x.is_meta or isinstance(x._local_tensor, FakeTensor):
        return False
    return x.device_mesh.get_coordinate() is not None
