"""The collectives of torch.distributed that our operations need, with derivatives.

The derivatives depend on what the loss is. If every rank has its own loss and the total loss is their sum, as in data
parallelism, a sum over the ranks is its own adjoint (`summed`), and the adjoint of `gathered` selects a part of that
sum. If all ranks hold the same loss, which counts once, the adjoint of a sum copies the gradient to every rank
(`reduced`), the adjoint of copying (`replicated`) is a sum, and the adjoint of `collected` selects the rank's own part.

They use the functional collectives, which torch.compile can trace.

The reasons are in docs/decisions/losses-over-ranks.md.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..autograd.function import Function

Group = Any  # torch.distributed.ProcessGroup, which does not exist in builds of torch without distributed

_collectives = torch.ops._c10d_functional


def checked(operation: str, group: Group | None) -> Group:
    """The group, by default that of all ranks."""
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
    """Stacks x of all ranks along a new first dimension. Not differentiable."""
    every = _collectives.all_gather_into_tensor(x.unsqueeze(0).contiguous(), group.size(), group.group_name)
    return _collectives.wait_tensor(every)


class _Linear(Function):
    """A linear function of x across the ranks, which is its own derivative."""

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
    """Stacks x of all ranks along a new first dimension."""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return all_gather(x, group)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple, x: Tensor, group: Group) -> tuple:
        return cls.apply(x, group), in_dims[0] + 1


class _Adding(_Linear):
    """The sum of x over the ranks."""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return _collectives.wait_tensor(_collectives.all_reduce(x.contiguous(), "sum", group.group_name))


class Gathered(_Gathering):
    """Each rank has its own loss."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Summed.apply(g, ctx.group)[ctx.group.rank()], None


class Summed(_Adding):
    """Each rank has its own loss."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Summed.apply(g, ctx.group), None


class Reduced(_Adding):
    """All ranks have the same loss."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Replicated.apply(g, ctx.group), None


class Replicated(_Linear):
    """x, which is the same on all ranks. Each rank computes another part of the same loss from it."""

    @staticmethod
    def forward(x: Tensor, group: Group) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Reduced.apply(g, ctx.group), None


class Collected(_Gathering):
    """All ranks have the same loss."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return Taken.apply(g, ctx.group), None


class Taken(_Linear):
    """The rank's own entry of a replicated stack. Each rank computes its part of the same loss from it."""

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
