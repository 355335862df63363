"""Classes split among ranks: the part of a cross-entropy's operands that belongs to this rank."""

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ...distributed.agreement import agree
from ...distributed.collectives import Group, checked
from ...distributed.shards import is_dtensor
from ._formulas import Split

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Local(NamedTuple):
    """The operands on this rank, and how to turn its loss into a DTensor."""

    tensors: Sequence[Any]
    group: Group  # that the classes are split among
    row_groups: Sequence[Group]  # that the rows are split among
    whole: Callable[[Tensor], Tensor]  # makes a DTensor of a loss, or of the losses of rows


def split_among(
    operation: str, group: Group | None, row_groups: Sequence[Group], x: Tensor, dim: int, **what: Hashable
) -> Split:
    """The classes of this rank: dimension `dim` of x, following the classes of lower ranks."""
    group = checked(operation, group)
    numbers = agree(operation, group, x.device, own=x.shape[dim], **what)
    return Split(group, sum(numbers[: group.rank()]), sum(numbers), row_groups)


def refuse_group(operation: str, group: Group | None) -> None:
    if group is not None:
        raise ValueError(f"{operation}: expected no process_group with a DTensor, whose placements define it")


def described(x: Tensor, rows: Sequence[int], target: Tensor, weight: Tensor | None) -> dict[str, Hashable]:
    """What ranks must agree on besides the options."""
    what: dict[str, Hashable] = dict(
        dtype=x.dtype,
        target="probabilities" if target.is_floating_point() else "indices",
        weight="none" if weight is None else "given",
    )
    return what if is_compiling() else what | dict(rows=tuple(rows))  # a compiler may use symbols for them


def sharded(x: "DTensor", dim: int) -> bool:
    return any(p.is_shard(dim) for p in x.placements)


def of_logits(input: "DTensor", target: Tensor, weight: Tensor | None) -> Local:
    """The operands of a cross-entropy whose logits are sharded by class, and possibly along other dimensions."""
    from torch.distributed.tensor import Replicate, Shard

    dim = int(input.dim() > 1)
    among = mesh_dimension(input, dim)
    placements = [p if p.is_shard() else Replicate() for p in input.placements]
    of_rows = [
        Shard(p.dim - (p.dim > dim)) if isinstance(p, Shard) and i != among else Replicate()
        for i, p in enumerate(placements)
    ]
    of_target = placements if target.shape == input.shape else of_rows
    tensors = placed(input, input, placements), placed(target, input, of_target), whole_weight(weight)
    shape = torch.Size((*input.shape[:dim], *input.shape[dim + 1 :]))
    return local(input, among, tensors, of_rows, shape)


def of_linear(x: Tensor, W: "DTensor", b: Tensor | None, target: Tensor, weight: Tensor | None) -> Local:
    """The operands of a linear_cross_entropy whose W and b are sharded by class, and x possibly by row."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    among = mesh_dimension(W, 0)
    of_classes = [Shard(0) if i == among else Replicate() for i in range(W.device_mesh.ndim)]
    of_rows = [
        Shard(0) if i != among and is_dtensor(x) and x.dim() == 2 and x.placements[i].is_shard(0) else Replicate()
        for i in range(W.device_mesh.ndim)
    ]
    # Ranks with the same classes but different rows each have a partial gradient for the classes.
    of_gradient = [Partial() if p.is_shard() else of for p, of in zip(of_rows, of_classes, strict=True)]
    has_probabilities = target.shape == (*x.shape[:-1], *W.shape[:-1])
    dim_of_classes = x.dim() - 1
    of_target = [Shard(dim_of_classes) if has_probabilities and i == among else p for i, p in enumerate(of_rows)]
    tensors = (
        placed(x, W, of_rows),
        placed(W, W, of_classes, of_gradient),
        None if b is None else placed(b, W, of_classes, of_gradient),
        placed(target, W, of_target),
        whole_weight(weight),
    )
    return local(W, among, tensors, of_rows, torch.Size((*x.shape[:-1], *W.shape[1:-1])))


def mesh_dimension(x: "DTensor", dim: int) -> int:
    """The only mesh dimension along which a dimension of x is sharded."""
    from torch.distributed.tensor import Shard

    found = [i for i, p in enumerate(x.placements) if p.is_shard(dim)]
    if len(found) > 1 or type(x.placements[found[0]]) is not Shard:
        raise NotImplementedError(
            f"expected the classes, dimension {dim}, to be sharded along one dimension of the mesh, got {x.placements}"
        )
    return found[0]


def placed(x: Tensor, like: "DTensor", placements: Sequence[Any], of_gradient: Sequence[Any] | None = None) -> Tensor:
    """The local part of x with these placements on the mesh of `like`. A plain tensor counts as replicated."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    if not is_dtensor(x):
        x = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
    if x.device_mesh != mesh:
        raise ValueError(f"expected DTensors on one mesh, got {x.device_mesh} and {mesh}")
    return x.redistribute(placements=placements).to_local(grad_placements=of_gradient)


def whole_weight(weight: Tensor | None) -> Tensor | None:
    return weight.full_tensor() if is_dtensor(weight) else weight


def local(like: "DTensor", among: int, tensors: Sequence[Any], of_rows: Sequence[Any], shape: torch.Size) -> Local:
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh

    def whole(loss: Tensor) -> Tensor:
        if loss.dim() == 0:
            return DTensor.from_local(loss, mesh, [Replicate()] * mesh.ndim, run_check=False)
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(loss, mesh, of_rows, run_check=False, shape=shape, stride=stride)

    row_groups = [mesh.get_group(i) for i, p in enumerate(of_rows) if p.is_shard()]
    return Local(tensors, mesh.get_group(among), row_groups, whole)
