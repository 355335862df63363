"""The positions of a local tensor's elements in the full DTensor.

torch.distributed.tensor takes a second to import. It is therefore not imported before a DTensor exists.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Run(NamedTuple):
    """`rows` rows of `length` consecutive elements, from the element `start` of the contiguous local tensor on. Row i
    starts at first + i pitch in the full tensor."""

    start: int
    rows: int
    length: int
    first: int
    pitch: int


def is_dtensor(x: Any) -> TypeGuard["DTensor"]:
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(x, tensor.DTensor)


def runs(x: "DTensor") -> list[Run]:
    """The elements of the local tensor, in order. A partial sum has all elements of the full tensor."""
    from torch.distributed.tensor.placement_types import Shard, _StridedShard

    coordinate = x.device_mesh.get_coordinate()
    if coordinate is None:  # this rank is not in the mesh
        return []
    ours = [[range(n)] for n in x.shape]  # the indices in each dimension
    for placement, rank, ranks in zip(x.placements, coordinate, x.device_mesh.shape, strict=True):
        if isinstance(placement, (Shard, _StridedShard)):
            ours[placement.dim] = _shard(ours[placement.dim], rank, ranks, getattr(placement, "split_factor", 1))
        elif not (placement.is_replicate() or placement.is_partial()):
            raise NotImplementedError(f"a DTensor with the placement {placement} is not supported")
    return runs_of(tuple(x.shape), ours)


def runs_of(shape: tuple[int, ...], ours: Sequence[list[range]]) -> list[Run]:
    """The elements whose index is in `ours` in each dimension, in order."""
    found, inner = [Run(0, 1, 1, 0, 1)], 1  # of the trailing dimensions, and their number of elements
    for size, ranges in zip(reversed(shape), reversed(ours), strict=True):
        found = _in_rows([run for one in ranges if one for run in _repeated(found, one, inner)])
        inner *= size
    start, placed = 0, []
    for run in found:
        placed.append(run._replace(start=start))
        start += run.rows * run.length
    return placed


def _repeated(runs: list[Run], ours: range, inner: int) -> list[Run]:
    """Repeats the runs for our indices of one more dimension, which are `inner` elements apart."""
    if len(runs) != 1:
        return [run._replace(first=run.first + i * inner) for i in ours for run in runs]
    (run,) = runs
    first = run.first + ours.start * inner
    if run.length == inner:
        return [Run(0, 1, len(ours) * inner, first, 0)]
    if run.rows == 1:
        return [Run(0, len(ours), run.length, first, inner)]
    if run.rows * run.pitch == inner:  # the rows continue at the same distance
        return [run._replace(rows=len(ours) * run.rows, first=first)]
    return [run._replace(first=run.first + i * inner) for i in ours]


def _in_rows(runs: list[Run]) -> list[Run]:
    """Merges single-row runs of equal length and distance into one run."""
    if len(runs) < 2 or any((run.rows, run.length) != (1, runs[0].length) for run in runs):
        return runs
    firsts = [run.first for run in runs]
    pitch = firsts[1] - firsts[0]
    if firsts != list(range(firsts[0], firsts[0] + len(runs) * pitch, pitch)):
        return runs
    return [runs[0]._replace(rows=len(runs), pitch=pitch)]


def _shard(ranges: list[range], rank: int, ranks: int, split_factor: int) -> list[range]:
    """The rank's part of these indices: one chunk of each of split_factor chunks. A _StridedShard has several, because
    a later dimension of the mesh was sharded before an earlier one."""
    return [one for i in range(split_factor) for one in _chunk(_chunk(ranges, i, split_factor), rank, ranks)]


def _chunk(ranges: list[range], number: int, count: int) -> list[range]:
    """torch.chunk for consecutive ranges, which may be empty."""
    size = -(-sum(map(len, ranges)) // count)
    start, stop, found = number * size, (number + 1) * size, []
    for one in ranges:
        found.append(one[max(start, 0) : max(stop, 0)])
        start, stop = start - len(one), stop - len(one)
    return found
