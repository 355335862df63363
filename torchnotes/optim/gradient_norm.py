"""The norm of several tensors taken as one vector. The formula: csrc/formulas/gradient_norm.h."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..autograd.fake import register_fake
from ..distributed.collectives import Group, summed
from ..distributed.shards import is_dtensor
from ._sharded import any_dtensor, is_partial_sum, local_tensor

register_fake("torchnotes::gradient_norm", lambda tensors: tensors[0].new_empty((), dtype=_dtype_of(tensors[0])))
_norm = torch.ops.torchnotes.gradient_norm.default


def gradient_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Computes the 2-norm of all numbers in tensors of one device and dtype, in a single pass.

    :func:`torch.nn.utils.get_total_norm` computes the norm of the tensors' norms instead. A DTensor counts as a whole,
    including the numbers on other ranks; every rank of its mesh must call this function.

    Args:
        tensors: The tensors, such as the gradients of a model.

    Returns:
        A scalar, in float32 for 16-bit tensors.

    Example:
        >>> optim.gradient_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
    """
    together = list(tensors)
    if any_dtensor(together):
        return norm_over_ranks([(x, x) for x in together]).to(together[0].device, _dtype_of(together[0]))
    return _norm(together) if together else torch.zeros(())


def _dtype_of(x: Tensor) -> torch.dtype:
    dtype = x.dtype.to_real()
    return torch.float32 if dtype.itemsize == 2 else dtype


def norm_over_ranks(tensors: Iterable[tuple[Tensor, Tensor | None]], group: Group | None = None) -> Tensor:
    """The norm, in float64, of all tensors, which may have any devices and dtypes.

    DTensors count as a whole and, with a group, the tensors of all its ranks are included. The first tensor of a pair
    has the placement of the second, which may be None.
    """
    placed: dict[Any, list[Tensor]] = {}  # local tensors, by placement
    device = None
    for like, x in tensors:
        device = device or like.device
        whole = _reduced(like if x is None else x)
        together = placed.setdefault((whole.device_mesh, whole.placements) if is_dtensor(whole) else None, [])
        if x is not None:
            together.append(local_tensor(whole))
    divided: dict[tuple[Group, ...], list[Tensor]] = {}  # by the ranks that share them
    for placement, together in placed.items():
        divided.setdefault(_sharding_groups(*placement) if placement else (), []).extend(together)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for groups, together in divided.items():
        square = _sum_of_squares(together, total.device)
        for of_dimension in groups:
            square = summed(square, of_dimension)
        total = total + square
    if group is not None:
        total = summed(total.to(_device_of(group)), group)
    return total.sqrt()


def _reduced(x: Tensor) -> Tensor:
    if not (is_dtensor(x) and is_partial_sum(x)):
        return x
    from torch.distributed.tensor import Replicate

    with torch.no_grad():
        return x.redistribute(placements=[Replicate() if p.is_partial() else p for p in x.placements])


def _sharding_groups(mesh: Any, placements: tuple) -> tuple[Group, ...]:
    """The groups of the mesh dimensions along which the tensor is not replicated."""
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
    """The device on which the ranks of a group communicate, even those that hold nothing."""
    return torch.device("cuda" if "nccl" in dist.get_backend_config(group) and torch.cuda.is_available() else "cpu")
