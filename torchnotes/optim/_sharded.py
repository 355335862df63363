"""Parameters that are DTensors. A step updates the local tensors of this rank with the same kernels; the states stay
DTensors, as in torch's optimizers."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._native import collect_parameters
from ..distributed.shards import is_dtensor, runs


def any_dtensor(tensors: Iterable[Tensor]) -> bool:
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and any(issubclass(kind, tensor.DTensor) for kind in set(map(type, tensors)))


def is_partial_sum(x: Tensor) -> bool:
    return is_dtensor(x) and any(placement.is_partial() for placement in x.placements)


def local_tensor(x: Tensor) -> Tensor:
    """The local tensor of x: the same memory, detached."""
    if not is_dtensor(x):
        return x.detach()
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    local = x.to_local().detach()
    return local.wait() if isinstance(local, AsyncCollectiveTensor) else local


@torch.no_grad()
def collect_local_parameters(params: list[Tensor], state: dict[Tensor, Any], *names: tuple[str, ...]) -> Any:
    """Like collect_parameters, for local tensors; returns the parameters next to each bundle and its first tensor."""
    with_gradient = [p for p in params if p.grad is not None]
    if any(map(is_partial_sum, with_gradient)):
        return None
    by_local = {_local_parameter(p): p for p in with_gradient}
    states = {
        local: {name: _like_parameter(p, x, name) for name, x in state.get(p, {}).items() if name in names[1]}
        for local, p in by_local.items()
    }
    collected = collect_parameters(list(by_local), states, *names)
    if collected is None:
        return None
    bundles, incomplete = collected
    complete = by_local.keys() - set(incomplete)
    return [
        (
            lists,
            like,
            [p for x, p in by_local.items() if x in complete and (x.dtype, x.device) == (like.dtype, like.device)],
        )
        for lists, like in bundles
    ], [by_local[local] for local in incomplete]


def _local_parameter(p: Tensor) -> Tensor:
    """The local tensor of a parameter with the local gradient, redistributed like the parameter if necessary."""
    if not is_dtensor(p):
        return p
    if is_dtensor(p.grad) and p.grad.device_mesh == p.device_mesh and p.grad.placements != p.placements:
        p.grad = p.grad.redistribute(placements=p.placements)
    local = local_tensor(p)
    local.grad = _like_parameter(p, p.grad, "gradient")
    return local


def _like_parameter(p: Tensor, x: Any, what: str) -> Any:
    """The local tensor of x, the gradient or a state of p."""
    if not (is_dtensor(p) and isinstance(x, Tensor)):
        return x
    placed = (x.device_mesh, x.placements) if is_dtensor(x) else None
    if placed != (p.device_mesh, p.placements) and what != "step":
        expected, got = _description(p), _description(x)
        raise RuntimeError(f"torchnotes: expected the {what} of a parameter to match it, {expected}, got {got}")
    return local_tensor(x)


def _description(x: Tensor) -> str:
    return f"a DTensor placed as {x.placements} on {x.device_mesh}" if is_dtensor(x) else "a plain tensor"


def positions_in_full_tensor(params: Sequence[Tensor]) -> tuple[int, ...]:
    """The positions that determine each parameter's random numbers: first, length, pitch (csrc/loops/parameters.h)."""
    return tuple(number for p in params for number in _shard_position(p))


def _shard_position(p: Tensor) -> tuple[int, int, int]:
    if not is_dtensor(p):
        return 0, max(p.numel(), 1), 0
    found = list(runs(p))
    if len(found) > 1 or not p.to_local().is_contiguous():
        raise RuntimeError(
            "torchnotes: stochastic rounding needs local shards that consist of contiguous rows at equal distances, "
            f"got {_description(p)}, of size {tuple(p.shape)}"
        )
    return next(((run.first, run.length, run.pitch) for run in found), (0, 1, 0))
