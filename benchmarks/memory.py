"""What the allocator does to a measurement, under control, and what a call takes of memory.

glibc decides what a large result costs. It maps blocks over 32 MiB anew for every allocation, and each of their pages
faults on first touch, unless the end of the heap happens to have room: history decides. So a measurement has a regime:

    fresh   glibc's defaults with the heap trimmed before each timed call: large results always come from new pages
    warm    nothing is mapped apart or given back: every result lands in memory that was used before
"""

import ctypes
import os
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from torchnotes.classifier.memory import peak_bytes as peak_bytes

Regime = Literal["fresh", "warm"]

ALWAYS_MAPPED = 32 << 20  # bytes: glibc's largest threshold between heap and mapping
WARM_BLOCKS = 16
_WARM = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
_trim: Callable[[int], int] = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)


def usual_regime(block_bytes: int, device: torch.device) -> Regime:
    """What a block of this size meets in a training loop; a caching device allocator always recycles."""
    return "fresh" if device.type == "cpu" and block_bytes > ALWAYS_MAPPED else "warm"


def environment(regime: Regime) -> dict[str, str]:
    """Of a process whose heap follows the regime from its first allocation on, and whose profiler is silent."""
    foreign = ("GLIBC_TUNABLES", "MALLOC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return inherited | {"KINETO_LOG_LEVEL": "6"} | ({"GLIBC_TUNABLES": _WARM} if regime == "warm" else {})


def prepare(regime: Regime, block_bytes: int) -> None:
    """Touch all the memory that a warm heap will need: on its own it grows for a while as fragments push blocks on."""
    if regime == "warm":
        torch.ones(WARM_BLOCKS * block_bytes, dtype=torch.uint8)


def forget(regime: Regime) -> None:
    """Give back what earlier calls left on the heap, where the regime says so."""
    if regime == "fresh":
        _trim(0)


def kept_bytes(call: Callable[[], object]) -> int:
    """What autograd keeps between forward and backward."""
    kept: dict[int, Tensor] = {}  # by address, and held, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
