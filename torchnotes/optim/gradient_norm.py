"""The length of several vectors as one. The formula: csrc/formulas/gradient_norm.h."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..autograd.fake import register_fake
from ..distributed.collectives import Group, summed
from ..distributed.shards import is_dtensor
from ._sharded import any_dtensor, held_of, is_partial_sum

register_fake("torchnotes::gradient_norm", lambda tensors: tensors[0].new_empty((), dtype=_dtype_of(tensors[0])))
_norm = torch.ops.torchnotes.gradient_norm.default


def gradient_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all numbers in tensors of one device and dtype, in one pass over them.

    As torch.nn.utils.get_total_norm, which computes the norm of their norms; float32 for tensors of 16 bits. Of a
    DTensor all numbers count, those on other ranks too: every rank of its mesh has to ask.
    """
    together = list(tensors)
    if any_dtensor(together):
        return norm_over_ranks([(x, x) for x in together]).to(together[0].device, _dtype_of(together[0]))
    return _norm(together) if together else torch.zeros(())


def _dtype_of(x: Tensor) -> torch.dtype:
    dtype = x.dtype.to_real()
    return torch.float32 if dtype.itemsize == 2 else dtype


def norm_over_ranks(tensors: Iterable[tuple[Tensor, Tensor | None]], group: Group | None = None) -> Tensor:
    """The length in float64 of all tensors, of any devices and dtypes: of DTensors the whole, and with a group what
    all of its ranks hold. The first of a pair tells how the second is placed on a rank that has none."""
    placed: dict[Any, list[Tensor]] = {}  # what is held, by how it is placed
    device = None
    for like, x in tensors:
        device = device or like.device
        whole = _added_up(like if x is None else x)
        together = placed.setdefault((whole.device_mesh, whole.placements) if is_dtensor(whole) else None, [])
        if x is not None:
            together.append(held_of(whole))
    divided: dict[tuple[Group, ...], list[Tensor]] = {}  # among the same ranks, which add it up at once
    for placement, together in placed.items():
        divided.setdefault(_groups_that_divide(*placement) if placement else (), []).extend(together)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for groups, together in divided.items():
        square = _sum_of_squares(together, total.device)
        for of_dimension in groups:
            square = summed(square, of_dimension)
        total = total + square
    if group is not None:
        total = summed(total.to(_device_of(group)), group)
    return total.sqrt()


def _added_up(x: Tensor) -> Tensor:
    if not (is_dtensor(x) and is_partial_sum(x)):
        return x
    from torch.distributed.tensor import Replicate

    with torch.no_grad():
        return x.redistribute(placements=[Replicate() if p.is_partial() else p for p in x.placements])


def _groups_that_divide(mesh: Any, placements: tuple) -> tuple[Group, ...]:
    """Of the dimensions of the mesh in which nothing is replicated."""
    if mesh.get_coordinate() is None:
        return ()
    divided = [d for d, placement in enumerate(placements) if mesh.size(d) > 1 and not placement.is_replicate()]
    return tuple(mesh.get_group(d) for d in divided)


def _sum_of_squares(tensors: list[Tensor], device: torch.device) -> Tensor:
    kinds: dict[tuple, list[Tensor]] = {}
    for x in tensors:
        kinds.setdefault((x.dtype, x.device), []).append(x)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for same in kinds.values():
        total = total + _norm(same).to(device, torch.float64).square()
    return total


def _device_of(group: Group) -> torch.device:
    """Where the ranks of a group meet, those too that hold nothing on any device."""
    return torch.device("cuda" if "nccl" in dist.get_backend_config(group) and torch.cuda.is_available() else "cpu")
