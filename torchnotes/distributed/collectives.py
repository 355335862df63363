"""What the ranks of a process group exchange: the few collectives of torch.distributed that our operations need.

Two conventions of what a loss is go with them. Where every rank has a loss of its own and their sum is meant, as in
data parallelism, a sum over the ranks is its own adjoint (`summed`), and that of `gathered` is to pick from it. Where
all ranks hold the same loss, which is meant once, the adjoint of a sum is to hand the gradient to every rank
(`reduced`), that of handing to every rank (`replicated`) is a sum, and that of `collected` is to take one's own.

They are the functional collectives, which torch.compile traces.

The reasons are in docs/decisions/losses-over-ranks.md.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..autograd.function import Function

Group = Any  # torch.distributed.ProcessGroup, which a torch without distributed lacks

_collectives = torch.ops._c10d_functional


def checked(operation: str, group: Group | None) -> Group:
    """The group, or else that of all ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(f"{operation}: there is no process group. Call torch.distributed.init_process_group first.")
    if group is None:
        return dist.group.WORLD
    if not isinstance(group, dist.ProcessGroup):
        if group == dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError(f"{operation}: rank {dist.get_rank()} is not in the process group")
        raise TypeError(f"{operation}: process_group must be a torch.distributed.ProcessGroup, not {type(group)}")
    return group


def named(group_name: str) -> Group:
    return dist.distributed_c10d._resolve_process_group(group_name)  # type: ignore[arg-type] # a NewType of 2.13


def all_gather(x: Tensor, group: Group) -> Tensor:
    """x of every rank, in a dimension of ranks before the others. Without a derivative."""
    every = _collectives.all_gather_into_tensor(x.unsqueeze(0).contiguous(), group.size(), group.group_name)
    return _collectives.wait_tensor(every)


class _Linear(Function):
    """A linear map of x among the ranks, which has the same derivative along any direction."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.group = inputs[1]

    @classmethod
    def tangent(cls, ctx: Any, x_t: Tensor, *_: Any) -> Tensor:
        return cls.apply(x_t, ctx.group)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, x: Tensor, group: Group) -> tuple:
        return cls.apply(x, group), in_dims[0]


class _Gathering(_Linear):
    """x of every rank, in a dimension of ranks before the others"""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return all_gather(x, group)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, x: Tensor, group: Group) -> tuple:
        return cls.apply(x, group), in_dims[0] + 1


class _Adding(_Linear):
    """sum x over the ranks"""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return _collectives.wait_tensor(_collectives.all_reduce(x.contiguous(), "sum", group.group_name))


class Gathered(_Gathering):
    """Each rank goes on to a loss of its own."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Summed.apply(g, ctx.group)[ctx.group.rank()], None


class Summed(_Adding):
    """Each rank goes on to a loss of its own."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Summed.apply(g, ctx.group), None


class Reduced(_Adding):
    """All ranks go on to the same loss."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Replicated.apply(g, ctx.group), None


class Replicated(_Linear):
    """x, the same on all ranks, each of which makes another part of the same loss of it"""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Reduced.apply(g, ctx.group), None


class Collected(_Gathering):
    """All ranks go on to the same loss."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Taken.apply(g, ctx.group), None


class Taken(_Linear):
    """Of what all ranks hold for each rank, a rank's own, from which it makes its part of the same loss"""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return x[group.rank()].clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Collected.apply(g, ctx.group), None

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, x: Tensor, group: Group) -> tuple:
        return cls.apply(x.movedim(in_dims[0], 1), group), 0


gathered, summed = Gathered.apply, Summed.apply
collected, reduced, replicated = Collected.apply, Reduced.apply, Replicated.apply
