"""Where the elements of a rank's part of a DTensor stand in the whole tensor.

torch.distributed.tensor takes a second to import: it is looked up where somebody has made a DTensor, and so has it.
"""

import itertools
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Run(NamedTuple):
    """`rows` times `length` neighbours of the contiguous local part, from its element `start` on: row i is at
    first + i pitch in the whole."""

    start: int
    rows: int
    length: int
    first: int
    pitch: int


def is_dtensor(x: Any) -> TypeGuard["DTensor"]:
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(x, tensor.DTensor)


def is_box(x: "DTensor") -> bool:
    """Whether the local part is a box of the whole: what is sharded is so in order, and nothing is a partial sum."""
    from torch.distributed.tensor import Replicate, Shard

    return all(type(p) in (Shard, Replicate) for p in x.placements)


def runs(x: "DTensor") -> Iterator[Run]:
    """The elements of the local part, in order."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape = tuple(x.shape)
    local, offset = compute_local_shape_and_global_offset(shape, x.device_mesh, x.placements)
    if math.prod(local) == 0:
        return
    cut = [d for d in range(len(shape)) if local[d] != shape[d]]
    last = max(cut, default=0)
    inner = math.prod(shape[last + 1 :])
    length = math.prod(local[last:]) if shape else 1
    pitch = math.prod(shape[last:])
    # Dimensions before the last cut one are whole from the one before it on: these rows have the same distance.
    before = max(cut[:-1], default=-1) + 1
    rows = math.prod(local[before:last])
    outer = [range(n) for n in local[:before]]
    strides = [math.prod(shape[d + 1 :]) for d in range(before)]
    for number, place in enumerate(itertools.product(*outer)):
        first = sum((offset[d] + i) * strides[d] for d, i in enumerate(place))
        yield Run(number * rows * length, rows, length, first + (offset[last] * inner if shape else 0), pitch)
